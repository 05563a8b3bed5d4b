"""`anysize-train ladder`: the best subset of patched positions for each size."""

from pathlib import Path

from rich.table import Table

from anysize.console import print_json, terminal
from anysize_training.commands.family import load_family
from anysize_training.commands.invocation import command_line
from anysize_training.study.ladder import LadderSearch, falling
from anysize_training.study.measure import amend_ladder
from anysize_training.study.texts import read_windows


def find_ladder(
    family: Path, text: Path, *, first_row: int, max_tokens: int, window: int, write: bool, as_json: bool
) -> None:
    """Search the ladder of a family, print it, and write it into the folder if asked to.

    Args:
        family: its folder, or `builtin`.
        text: to calibrate on.
        first_row: of a `.jsonl` file, the first that is read.
        max_tokens: calibrate on this many.
        window: tokens in one window.
        write: put the ladder into the family; measurements of the old one go.
        as_json: print one JSON object instead of a table.
    """
    folder, loaded = load_family(family)
    windows = read_windows(text, loaded.tokenizer, length=window, max_tokens=max_tokens, first_row=first_row)
    rungs = falling(LadderSearch(loaded.bank, windows).best())
    if write:
        amend_ladder(folder, loaded, [rung.variant for rung in rungs], command_line())
    if as_json:
        rows = [{"variant": rung.variant.id, "kl": rung.kl} for rung in rungs]
        print_json({"family": loaded.name, "dataset": windows.name, "ladder": rows})
        return
    title = f"{loaded.name}, calibrated on {windows.scored} tokens of {windows.name}"
    table = Table("variant", "layers", "KL", title=title)
    for rung in rungs:
        table.add_row(rung.variant.id, str(rung.variant.depth(loaded.bank.blocks)), f"{rung.kl:.4f}")
    terminal.print(table)
