"""Variants: ids that read back, owners, and stacks of layers."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysize.errors import VariantError
from anysize.family.blocks import BlockMap
from anysize.family.variant import LayerRef, Owner, Variant

choices = st.lists(st.booleans(), min_size=1, max_size=40).map(tuple)


@pytest.mark.parametrize("positions", range(1, 7))
def test_every_id_of_a_small_family_reads_back_and_is_its_own(positions: int) -> None:
    variants = [Variant(choice) for choice in product((False, True), repeat=positions)]
    assert [Variant.parse(variant.id, positions) for variant in variants] == variants
    assert len({variant.id for variant in variants}) == 2**positions


@given(choices)
def test_any_id_reads_back(choice: tuple[bool, ...]) -> None:
    variant = Variant(choice)
    assert Variant.parse(variant.id, len(choice)) == variant
    assert Variant.of(len(choice), variant.patched) == variant


def test_ids_look_as_the_design_says() -> None:
    assert Variant.of(11, [8, 9, 10, 11]).id == "p8-11"
    assert Variant.of(11, [6, 1, 4, 5, 9]).id == "p1.4-6.9"
    assert Variant.of(3, []).id == "student"
    assert Variant.of(3, [1, 2, 3]).id == "teacher"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("p3.1", "p1.3"),
        ("p1.2", "p1-2"),
        ("p2-2", "p2"),
        ("p1-2.2-3", "p1-3"),
        ("p01", "p1"),
        ("p4.4.4", "p4"),
        ("p1-4", "teacher"),
        ("p1.2.3.4", "teacher"),
    ],
)
def test_other_spellings_of_an_id_are_normalised(text: str, canonical: str) -> None:
    assert Variant.parse(text, 4).id == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p",
        "P1",
        "p0",
        "p3-1",
        "p99",
        "p5",
        "p1-5",
        "p0-2",
        "p1..2",
        "p1.",
        "p.1",
        "p1-",
        "p-1",
        "p1--2",
        "p+1",
        "p 1",
        " p1",
        "p1 ",
        "p1\n",
        "p1,2",
        "p1_0",
        "p٣",  # ARABIC-INDIC DIGIT THREE
        "p２",  # noqa: RUF001  (a look-alike digit is what is tested)
        "p²",
        "p00001",
        "p99999999999999999999",
        "Student",
        "student ",
        "teacher\0",
        "p1" + ".1" * 600,
        "p" + "1" * 5000,
        "x" * 1_000_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_id_is_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(VariantError) as caught:
        Variant.parse(text, 4)
    message = str(caught.value)
    assert len(message) < 1200
    assert "\n" not in message


@given(st.text(max_size=20) | st.from_regex(r"p[0-9.\-]{0,20}", fullmatch=True), st.integers(1, 12))
def test_any_text_is_an_id_or_a_variant_error(text: str, positions: int) -> None:
    try:
        variant = Variant.parse(text, positions)
    except VariantError:
        return
    assert Variant.parse(variant.id, positions) == variant


def test_positions_outside_the_family_are_refused() -> None:
    with pytest.raises(VariantError, match="position 0 does not exist"):
        Variant.of(4, [0, 2])
    with pytest.raises(VariantError, match="positions 1 to 4"):
        Variant.of(4, [5])
    with pytest.raises(VariantError, match="at least one position"):
        Variant(())


@given(choices)
def test_owners_are_those_of_the_first_and_the_last_layer(choice: tuple[bool, ...]) -> None:
    variant = Variant(choice)
    stack = variant.stack(BlockMap(tuple(range(len(choice))), len(choice)))
    assert (variant.embedding_owner, variant.head_owner) == (stack[0].owner, stack[-1].owner)


@given(choices, st.data())
def test_a_stack_holds_a_layer_of_the_student_or_its_block_for_each_position(
    choice: tuple[bool, ...], data: st.DataObject
) -> None:
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=len(choice), max_size=len(choice)))
    kept = tuple(sum(lengths[:position]) for position in range(len(lengths)))
    blocks = BlockMap(kept, sum(lengths))
    stack = Variant(choice).stack(blocks)

    expected: list[LayerRef] = []
    for position, (patched, start, length) in enumerate(zip(choice, kept, lengths, strict=True)):
        if patched:
            expected += [LayerRef(Owner.TEACHER, layer) for layer in range(start, start + length)]
        else:
            expected.append(LayerRef(Owner.STUDENT, position))
    assert list(stack) == expected
    assert Variant(choice).depth(blocks) == len(expected)


def test_depth_runs_from_m_to_n() -> None:
    blocks = BlockMap.every_nth(36)
    assert Variant.student(19).depth(blocks) == 19
    assert Variant.teacher(19).depth(blocks) == 36


def test_a_variant_of_another_family_is_refused() -> None:
    with pytest.raises(VariantError, match="3 positions, the family 2"):
        Variant.student(3).stack(BlockMap((0, 2), 4))
