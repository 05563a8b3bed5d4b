"""Patch orders and the ladders of sizes that follow from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysize.errors import VariantError
from anysize.family.order import PatchOrder, nested_ladder, one_a_size, positions_in_order
from anysize.family.variant import Variant


def test_named_orders_are_those_of_the_paper() -> None:
    assert positions_in_order("last_to_first", 4) == (4, 3, 2, 1)
    assert positions_in_order("first_to_last", 4) == (1, 2, 3, 4)


@pytest.mark.parametrize("order", [(), (1, 2), (1, 2, 2), (0, 1, 2), (1, 2, 4), (1, 2, 3, 4)])
def test_an_explicit_order_lists_every_position_once(order: tuple[int, ...]) -> None:
    with pytest.raises(VariantError, match="1 to 3 once"):
        positions_in_order(order, 3)


@st.composite
def families(draw: st.DrawFn) -> tuple[PatchOrder, list[int]]:
    """An order, and for each position what patching it adds."""
    costs = draw(st.lists(st.integers(0, 5), min_size=1, max_size=12))
    explicit = st.permutations(range(1, len(costs) + 1)).map(tuple)
    return draw(st.sampled_from(("last_to_first", "first_to_last")) | explicit), costs


@given(families())
def test_a_ladder_has_one_variant_a_size_and_ends_with_the_teacher(family: tuple[PatchOrder, list[int]]) -> None:
    order, costs = family

    def parameters(variant: Variant) -> int:
        return 100 + sum(costs[position - 1] for position in variant.patched)

    ladder = nested_ladder(order, len(costs), parameters)
    sizes = [parameters(variant) for variant in ladder]
    assert sizes == sorted(set(sizes))
    assert ladder[-1] == Variant.teacher(len(costs))
    if sum(costs) > 0:
        assert ladder[0] == Variant.student(len(costs))

    sequence = positions_in_order(order, len(costs))
    met = {100 + sum(costs[position - 1] for position in sequence[:count]) for count in range(len(costs) + 1)}
    assert set(sizes) == met


def test_of_two_variants_of_one_size_the_one_with_fewer_patches_is_kept() -> None:
    costs = {1: 3, 2: 0, 3: 2}
    ladder = nested_ladder("last_to_first", 3, lambda variant: sum(costs[p] for p in variant.patched))
    assert [variant.id for variant in ladder] == ["student", "p3", "teacher"]


def test_the_teacher_replaces_a_variant_of_its_own_size() -> None:
    costs = {1: 0, 2: 4}
    ladder = nested_ladder("last_to_first", 2, lambda variant: sum(costs[p] for p in variant.patched))
    assert [variant.id for variant in ladder] == ["student", "teacher"]


def test_preference_decides_between_variants_of_one_size() -> None:
    first, second = Variant.of(3, [1]), Variant.of(3, [2])
    assert one_a_size([second, first], lambda variant: len(variant.patched)) == (second, Variant.teacher(3))
