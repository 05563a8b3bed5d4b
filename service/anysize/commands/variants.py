"""`anysize variants`: the served sizes, with what they cost and what they are worth."""

import shutil
from pathlib import Path

from rich.table import Table

from anysize.api.schemas import SHOWN_BATCHES, VariantOut, VariantsOut
from anysize.bench.plot import draw
from anysize.commands.calibrate import stored_planner
from anysize.console import print_json, say, terminal
from anysize.family.family import Family
from anysize.settings import Settings

# Left out in this order where the terminal is too narrow: each follows from what stays.
_DISPENSABLE = ("MB", "fraction", "layers")
_WIDEST = 4096
_NARROWEST_ID = 12


def show_variants(family: Family, settings: Settings, *, plot: Path | None, as_json: bool) -> None:
    """Print the ladder of a family.

    Args:
        family: loaded with the settings.
        settings: of the service that would serve it.
        plot: a file to draw into.
        as_json: print what `GET /variants` answers instead of a table.

    Raises:
        SettingsError: the file cannot be drawn.
    """
    ladder = VariantsOut.of(family, stored_planner(settings, family, say))
    listed = ladder.model_dump(exclude_unset=True)
    if plot is not None:
        draw({"benchmark": "variants", **listed}, plot)
        say(f"wrote {plot}")
    if as_json:
        print_json(listed)
        return
    cells = [_cells(variant) for variant in ladder.variants]
    left_out: set[str] = set()
    width = shutil.get_terminal_size().columns
    table = _table(ladder.family, cells, left_out)
    for column in _DISPENSABLE:
        if terminal.measure(table, options=terminal.options.update_width(_WIDEST)).maximum <= width:
            break
        left_out.add(column)
        table = _table(ladder.family, cells, left_out)
    terminal.print(table, width=width)
    datasets = sorted({variant.quality.dataset for variant in ladder.variants if variant.quality})
    if datasets:
        terminal.print(f"ppl: perplexity on {', '.join(datasets)}", highlight=False, width=width)
    if ladder.variants[0].predicted_tpot_ms:
        batches = ", ".join(map(str, SHOWN_BATCHES))
        terminal.print(
            f"ms/token: predicted for batches of {batches} requests of this size", highlight=False, width=width
        )


def _cells(variant: VariantOut) -> dict[str, str]:
    shown = {
        "variant": variant.id,
        "layers": str(variant.layers),
        "params": f"{variant.parameters / 1e6:.1f} M",
        "fraction": f"{variant.fraction:.3f}",
        "MB": f"{variant.bytes / 1e6:.0f}",
        "ppl": f"{variant.quality.perplexity:.1f}" if variant.quality else "-",
    }
    times = [f"{ms:#.3g}".rstrip(".") for ms in (variant.predicted_tpot_ms or {}).values()]
    return shown | ({"ms/token": " ".join(times)} if times else {})


def _table(title: str, rows: list[dict[str, str]], left_out: set[str]) -> Table:
    table = Table(title=title)
    columns = [column for column in rows[0] if column not in left_out]
    for column in columns:
        if column == "variant":
            table.add_column(column, overflow="fold", min_width=_NARROWEST_ID)
        else:
            table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[column] for column in columns))
    return table
