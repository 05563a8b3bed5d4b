"""A budget: bounds on a size and on its times. The largest served size inside all of them answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from anysize.errors import BudgetError
from anysize.family.family import Family, Size


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Bounds, all of them upper ones but `min_parameters`; those that are None do not bind.

    Attributes:
        parameters: inference parameters.
        min_parameters: inference parameters that the size has at least; whoever names them may be given any size from
            there on while many want answers.
        fraction: inference parameters over the teacher's, in (0, 1].
        memory_bytes: bytes of the distinct tensors of the size.
        ttft_ms: time to first token.
        tpot_ms: mean time between two tokens after it.
        total_ms: time to last token.
        or_reject: what becomes of a request whose times no size is expected to keep: refused, or answered by the
            smallest size inside the other bounds.
    """

    parameters: int | None = None
    min_parameters: int | None = None
    fraction: float | None = None
    memory_bytes: int | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    total_ms: float | None = None
    or_reject: bool = False

    @property
    def is_timed(self) -> bool:
        """Whether any bound is one of time, so that a latency model must choose (`anysize.sizing.planner`)."""
        return any(bound is not None for bound in (self.ttft_ms, self.tpot_ms, self.total_ms))

    def holds(self, *, ttft_ms: float, tpot_ms: float | None, total_ms: float) -> bool:
        """Whether times are inside every bound; one that there is not, as of an answer of one token, is."""
        pairs = ((ttft_ms, self.ttft_ms), (tpot_ms, self.tpot_ms), (total_ms, self.total_ms))
        return all(ms is None or bound is None or ms <= bound for ms, bound in pairs)

    def admits(self, size: Size) -> bool:
        """Whether a size is inside every bound but those of time."""
        return (
            (self.parameters is None or size.footprint.parameters <= self.parameters)
            and (self.min_parameters is None or size.footprint.parameters >= self.min_parameters)
            and (self.fraction is None or size.fraction <= self.fraction)
            and (self.memory_bytes is None or size.footprint.bytes <= self.memory_bytes)
        )


def choose(ladder: Sequence[Size], budget: Budget) -> Size:
    """The largest size of the ladder that the budget admits. See `admitted`."""
    return admitted(ladder, budget)[-1]


def admitted(ladder: Sequence[Size], budget: Budget) -> list[Size]:
    """The sizes of the ladder that the budget admits, smallest first; at least one.

    Args:
        ladder: the served sizes, smallest first.
        budget: the bounds.

    Raises:
        BudgetError: no size is inside; the message names the smallest, or all of them where there is a lower bound.
    """
    inside = [size for size in ladder if budget.admits(size)]
    if not inside and budget.min_parameters is not None:
        sizes = ", ".join(f"{size.id!r} {size.footprint.parameters}" for size in ladder)
        raise BudgetError(
            f"no served size has at least min_parameters {budget.min_parameters} and is inside the other bounds; "
            f"sizes by their parameters: {sizes}"
        )
    if not inside:
        smallest = ladder[0]
        raise BudgetError(
            f"no served size fits this budget; the smallest is {smallest.id!r} with {smallest.footprint.parameters} "
            f"parameters (fraction {smallest.fraction:.4f}, {smallest.footprint.bytes} bytes)"
        )
    return inside


def stand_ins(sizes: Sequence[Size], chosen: Size, budget: Budget) -> tuple[Size, ...]:
    """The sizes that may answer in place of a chosen one while many want answers, that one included.

    Args:
        sizes: that the budget admits, smallest first.
        chosen: one of them.
        budget: which allows smaller ones by naming a floor.
    """
    return tuple(sizes[: sizes.index(chosen) + 1]) if budget.min_parameters is not None else (chosen,)


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
