"""What an experiment says of a claim."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["reproduced", "not reproduced", "finding", "not run"]
Report = dict[str, Any]


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
