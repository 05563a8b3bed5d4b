"""Patch orders: in which order positions are patched as sizes grow, and the ladder of sizes that follows.

Knows nothing of weights: what a position costs comes in as a number.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from anysize.errors import VariantError
from anysize.family.variant import Variant

OrderName = Literal["last_to_first", "first_to_last"]
PatchOrder = OrderName | tuple[int, ...]


def positions_in_order(order: PatchOrder, positions: int) -> tuple[int, ...]:
    """The positions 1..M in the order in which they are patched.

    Args:
        order: a name (paper, Appendix B: Qwen and Pythia `last_to_first`, Llama `first_to_last`), or every
            position listed once.
        positions: M.

    Raises:
        VariantError: an explicit list that is no permutation of 1..M.
    """
    if order == "last_to_first":
        return tuple(range(positions, 0, -1))
    if order == "first_to_last":
        return tuple(range(1, positions + 1))
    if sorted(order) != list(range(1, positions + 1)):
        raise VariantError(f"a patch order lists each of the positions 1 to {positions} once, not {list(order)}")
    return tuple(order)


def nested_ladder(order: PatchOrder, positions: int, parameters: Callable[[Variant], int]) -> tuple[Variant, ...]:
    """The sizes met while patching in `order`, smallest first, at most one for each number of parameters.

    Patching a block of one layer changes no size. Of several variants of one size the one with the fewest patched
    positions is taken, except that the teacher always closes the ladder.
    """
    sequence = positions_in_order(order, positions)
    rungs = [Variant.of(positions, sequence[:count]) for count in range(positions + 1)]
    return one_a_size(rungs, parameters)


def one_a_size(variants: Sequence[Variant], parameters: Callable[[Variant], int]) -> tuple[Variant, ...]:
    """Of variants given in order of preference keep the first of each size; the fully patched one always stays."""
    teacher = Variant.teacher(len(variants[0].choice))
    by_size: dict[int, Variant] = {parameters(teacher): teacher}
    for variant in variants:
        by_size.setdefault(parameters(variant), variant)
    return tuple(by_size[size] for size in sorted(by_size))
