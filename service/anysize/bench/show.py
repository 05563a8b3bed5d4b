"""How a benchmark's report is shown."""

from pathlib import Path
from typing import Any

from rich.table import Table

from anysize.console import errors_for_people, print_json, terminal


def show(report: dict[str, Any], *, as_json: bool, plot: Path | None = None) -> None:
    """Print a report, and draw it where asked to."""
    if plot is not None:
        with errors_for_people():
            from anysize.bench.plot import draw

            draw(report, plot)
    if as_json:
        print_json(report)
        return
    table = Table("figure", "value", title=str(report["benchmark"]))
    for name, value in report.items():
        if isinstance(value, dict):
            for key, one in value.items():
                table.add_row(f"{name} {key}", _text(one))
        elif name != "benchmark":
            table.add_row(name, _text(value))
    terminal.print(table)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
