"""Block maps: a partition of the teacher's layers, and the students of the paper."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysize.errors import BlockMapError
from anysize.family.blocks import BlockMap


@st.composite
def block_maps(draw: st.DrawFn) -> BlockMap:
    layers = draw(st.integers(1, 64))
    others = draw(st.sets(st.integers(1, layers - 1))) if layers > 1 else set()
    return BlockMap((0, *sorted(others)), layers)


@given(block_maps())
def test_blocks_partition_the_teachers_layers_in_order(blocks: BlockMap) -> None:
    assert [layer for block in blocks.blocks for layer in block] == list(range(blocks.teacher_layers))
    assert len(blocks.blocks) == blocks.student_layers == len(blocks.kept)


@given(block_maps())
def test_every_block_starts_at_the_layer_its_student_layer_came_from(blocks: BlockMap) -> None:
    assert tuple(block[0] for block in blocks.blocks) == blocks.kept
    assert blocks.longest == max(len(list(block)) for block in blocks.blocks)


@given(block_maps())
def test_kept_and_dropped_layers_together_are_the_teacher(blocks: BlockMap) -> None:
    assert sorted([*blocks.kept, *blocks.dropped()]) == list(range(blocks.teacher_layers))


@pytest.mark.parametrize(
    ("kept", "layers", "reason"),
    [
        ((), 4, "at least one"),
        ((1, 2), 4, "start at 1"),
        ((-1, 2), 4, "start at -1"),
        ((0, 2, 2), 4, "2 follows 2"),
        ((0, 3, 1), 4, "1 follows 3"),
        ((0, 4), 4, "layers 0 to 3"),
        ((0,), 0, "does not exist"),
    ],
)
def test_kept_layers_that_make_no_partition_are_refused_with_the_reason(
    kept: tuple[int, ...], layers: int, reason: str
) -> None:
    with pytest.raises(BlockMapError, match=reason):
        BlockMap(kept, layers)


@pytest.mark.parametrize(
    ("layers", "first", "last", "students"),
    [(36, 1, 2, 19), (32, 1, 2, 17), (28, 2, 1, 15)],
    ids=["Qwen3-4B and 8B", "Pythia-2.8B and 6.9B", "Llama-3.2-3B"],
)
def test_the_papers_students_have_their_number_of_layers(layers: int, first: int, last: int, students: int) -> None:
    assert BlockMap.every_nth(layers, n=2, first=first, last=last).student_layers == students


@pytest.mark.parametrize("layers", range(6, 50, 2))
def test_equation_2_keeps_layers_1_3_to_n_minus_1_and_n(layers: int) -> None:
    counted_from_one = [layer + 1 for layer in BlockMap.every_nth(layers, first=1, last=2).kept]
    assert counted_from_one == [*range(1, layers, 2), layers]


@pytest.mark.parametrize("layers", range(6, 50, 2))
def test_equation_3_keeps_layers_1_2_4_to_n_minus_2_and_n(layers: int) -> None:
    counted_from_one = [layer + 1 for layer in BlockMap.every_nth(layers, first=2, last=1).kept]
    assert counted_from_one == [1, *range(2, layers + 1, 2)]


@given(st.integers(1, 48), st.integers(1, 6), st.integers(1, 6), st.integers(0, 6))
def test_every_nth_keeps_both_ends_and_leaves_no_block_longer_than_it_says(
    layers: int, n: int, first: int, last: int
) -> None:
    if first + last > layers:
        with pytest.raises(BlockMapError, match="does not fit"):
            BlockMap.every_nth(layers, n=n, first=first, last=last)
        return
    blocks = BlockMap.every_nth(layers, n=n, first=first, last=last)
    kept = set(blocks.kept)
    assert kept >= set(range(first)) | set(range(layers - last, layers))
    assert blocks.longest <= n


@pytest.mark.parametrize("wrong", [{"n": 0}, {"first": 0}, {"last": -1}, {"n": -2}])
def test_every_nth_refuses_numbers_that_mean_nothing(wrong: dict[str, int]) -> None:
    with pytest.raises(BlockMapError, match="every_nth"):
        BlockMap.every_nth(12, **wrong)
