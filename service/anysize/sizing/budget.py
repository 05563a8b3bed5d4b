"""A budget: upper bounds on a size. The largest served size inside all of them answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from anysize.errors import BudgetError
from anysize.family.family import Family, Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Upper bounds; those that are None do not bind.

    Attributes:
        parameters: inference parameters.
        fraction: inference parameters over the teacher's, in (0, 1].
        memory_bytes: bytes of the distinct tensors of the size.
    """

    parameters: int | None = None
    fraction: float | None = None
    memory_bytes: int | None = None

    def admits(self, size: Size) -> bool:
        """Whether a size is inside every bound."""
        return (
            (self.parameters is None or size.footprint.parameters <= self.parameters)
            and (self.fraction is None or size.fraction <= self.fraction)
            and (self.memory_bytes is None or size.footprint.bytes <= self.memory_bytes)
        )


def choose(ladder: Sequence[Size], budget: Budget) -> Size:
    """The largest size of the ladder inside the budget.

    Args:
        ladder: the served sizes, smallest first.
        budget: the bounds.

    Raises:
        BudgetError: even the smallest size is outside; the message names it.
    """
    inside = [size for size in ladder if budget.admits(size)]
    if not inside:
        smallest = ladder[0]
        raise BudgetError(
            f"no served size fits this budget; the smallest is {smallest.id!r} with {smallest.footprint.parameters} "
            f"parameters (fraction {smallest.fraction:.4f}, {smallest.footprint.bytes} bytes)"
        )
    return inside[-1]


def find_size(family: Family, text: str) -> Size:
    """The size that a person named: a fraction of the teacher, or a variant id.

    Raises:
        BudgetError: the number is outside (0, 1], or no served size is that small.
        VariantError: no such variant.
    """
    try:
        fraction = float(text)
    except ValueError:
        return family.find(text)
    if not 0 < fraction <= 1:
        raise BudgetError(f"size {text}: a fraction is above 0 and at most 1; or name a variant id")
    return choose(family.ladder, Budget(fraction=fraction))
