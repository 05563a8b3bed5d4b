"""`anysize-train patch`: every size between a student that others distilled and its teacher (paper, 3.4)."""

from pathlib import Path
from typing import Any

from rich.table import Table
from tqdm import tqdm

from anysize.console import print_json, say, terminal
from anysize.errors import SettingsError
from anysize.family.order import OrderName, nested_ladder
from anysize.settings import resolve_device
from anysize_training.commands.picture import check_picture
from anysize_training.study.offtheshelf.load import load_pair
from anysize_training.study.offtheshelf.pair import Pair, Score
from anysize_training.study.quality import Quality
from anysize_training.study.record import Measured, Record
from anysize_training.study.texts import Text, Windows


def patch_pair(
    teacher: str,
    student: str,
    text: Text,
    *,
    fit: Text | None,
    kept: str,
    patch_order: OrderName,
    pruned: bool,
    out: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure every size of a pair, print them, and draw them if asked to.

    Args:
        teacher: a checkpoint folder, or a name on the hub.
        student: likewise.
        text: to score.
        fit: to fit linear maps on, where the layers of both do not fit each other.
        kept: the teacher layers that the student's were copied from, with commas between.
        patch_order: in which order positions are patched as sizes grow.
        pruned: also score the teacher pruned to each size.
        out: a file that keeps what is measured.
        plot: a picture to write, `.png` or `.svg`.
        as_json: print one JSON object instead of a table.

    Raises:
        SettingsError: an option is wrong, or a file cannot be read or written.
    """
    if plot is not None:
        check_picture(plot)
    pair = load_pair(teacher, student, kept_layers(kept), device=resolve_device("auto"), say=say, fit=fit)
    record = Record(pair.name, pair.fingerprint, out)
    windows = text.windows(pair.tokenizer)
    measured = {"patched": _measure(pair, windows, record, patch_order, "patched")}
    if pruned:
        measured["pruned"] = _measure(pair.pruned(), windows, record, patch_order, "pruned")
    report = {
        "pair": pair.name,
        "measure": pair.measure,
        "kept_layers": pair.blocks.kept,
        "patch_order": patch_order,
        "dataset": windows.name,
        "dataset_sha256": windows.sha256,
        "tokens": windows.scored,
        **measured,
    }
    record.conclude(report)
    if plot is not None:
        from anysize_training.study.offtheshelf.figure import save_figure

        save_figure(measured, plot, measure=pair.measure, title=f"{pair.name} on {windows.name}")
        say(f"wrote {plot}")
    if as_json:
        print_json(report)
        return
    columns = ("variant", "layers", "parameters", pair.measure, "KL", *(["pruned teacher"] if pruned else []))
    table = Table(*columns, title=f"{pair.name} on {windows.name}")
    for number, row in enumerate(measured["patched"]):
        cells = [row["variant"], str(row["layers"]), f"{row['parameters']:,}"]
        cells += [f"{row['perplexity']:.2f}", f"{row['kl']:.3f}"]
        if pruned:
            cells.append(f"{measured['pruned'][number]['perplexity']:,.2f}")
        table.add_row(*cells)
    terminal.print(table)


def kept_layers(text: str) -> list[int]:
    """The layers that `--kept` names.

    Raises:
        SettingsError: it names none.
    """
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise SettingsError(f"--kept {text}: name teacher layers with commas between, such as 0,2,4,7,9,11") from None


def _measure(pair: Pair, windows: Windows, record: Record, order: OrderName, which: str) -> list[Measured]:
    made: list[Score] = []

    def quality_of(variant: Any) -> Quality:
        # What the teacher says of the text is computed first, but not where everything is known already.
        if not made:
            made.append(pair.scorer(windows))
        return made[0](variant)

    conditions = {"text": windows.sha256, "windows": windows.tokens_sha256, "weights": which}
    rows: list[Measured] = []
    ladder = nested_ladder(order, pair.blocks.student_layers, pair.parameters)
    for variant in tqdm(ladder, desc=which, unit="size"):

        def make(variant: Any = variant) -> Measured:
            found = quality_of(variant)
            return {"perplexity": found.perplexity, "kl": found.kl}

        size = {
            "variant": variant.id,
            "layers": variant.depth(pair.blocks),
            "parameters": pair.parameters(variant),
        }
        rows.append(size | record.measured(pair.measure, conditions, variant.id, make))
    return rows
