"""What an experiment says of a claim."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

Status = Literal["reproduced", "not reproduced", "finding", "not run"]
Report = dict[str, Any]

_NOISE = 0.02


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out.

    Attributes:
        status: whether the claim holds here; `finding` where the paper claims nothing.
        finding: in a sentence, with its numbers.
        columns: of the table.
        rows: as they are shown.
    """

    status: Status
    finding: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def held(holds: bool, finding: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Verdict:
    """Of a claim that is either reproduced or not."""
    return Verdict("reproduced" if holds else "not reproduced", finding, columns, rows)


def number(value: float | None, digits: int = 2) -> str:
    """For a table."""
    if value is None:
        return "-"
    return f"{value:,.{digits}f}" if abs(value) < 1e5 else f"{value:.1e}"


def largest_step_up(perplexities: Sequence[float]) -> float:
    """By what share a size is at most worse than the next smaller one; 0 where none is."""
    return max(0.0, *(larger / smaller - 1 for smaller, larger in pairwise(perplexities)))


def is_smooth(perplexities: Sequence[float]) -> bool:
    """Whether no size is much worse than the next smaller one; less than this is noise of a few thousand tokens."""
    return largest_step_up(perplexities) <= _NOISE
