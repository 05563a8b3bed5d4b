"""`anysize-train evaluate`: perplexity and KL divergence of every size of a family's ladder."""

from pathlib import Path
from typing import Any

from rich.table import Table

from anysize.console import print_json, terminal
from anysize_training.commands.family import load_family
from anysize_training.commands.invocation import command_line
from anysize_training.study.evaluate import Evaluator
from anysize_training.study.measure import amend, int8_qualities, measurement, untrained_quality
from anysize_training.study.texts import read_windows


def evaluate_family(
    family: Path,
    text: Path,
    *,
    first_row: int,
    max_tokens: int,
    window: int,
    wikitext: bool,
    untrained: bool,
    int8: bool,
    write: bool,
    as_json: bool,
) -> None:
    """Measure the sizes of a family, print them, and write them into the folder if asked to.

    Args:
        family: its folder, or `builtin`.
        text: to score.
        first_row: of a `.jsonl` file, the first that is read.
        max_tokens: score at most this many.
        window: tokens scored in one window.
        wikitext: undo WikiText's word tokenisation first.
        untrained: also score the student before training.
        int8: also score each size with the weights that `anysize serve --quantize int8` has.
        write: put the measurements into the family and its card.
        as_json: print one JSON object instead of a table.
    """
    folder, loaded = load_family(family)
    windows = read_windows(
        text,
        loaded.tokenizer,
        length=window,
        max_tokens=max_tokens,
        detokenise="wikitext" if wikitext else "none",
        first_row=first_row,
    )
    qualities = Evaluator(loaded.bank, windows).qualities([size.variant for size in loaded.ladder])
    before = untrained_quality(loaded, windows) if untrained else None
    rounded = int8_qualities(loaded, windows) if int8 else {}
    measurements = tuple(
        measurement(size.variant, qualities[size.id], windows, int8=rounded.get(size.id)) for size in loaded.ladder
    )
    report: dict[str, Any] = {
        "family": loaded.name,
        "dataset": windows.name,
        "dataset_sha256": windows.sha256,
        "tokens": windows.scored,
        "sizes": [
            {
                "variant": size.id,
                "layers": size.layers,
                "fraction": size.fraction,
                "perplexity": qualities[size.id].perplexity,
                "kl": qualities[size.id].kl,
                "perplexity_int8": rounded[size.id].perplexity if rounded else None,
            }
            for size in loaded.ladder
        ],
        "untrained_student_perplexity": before.perplexity if before else None,
    }
    if write:
        assert loaded.manifest is not None
        student = loaded.parse("student")
        update = {
            "measurements": measurements,
            "measurements_command": command_line(),
            "untrained": measurement(student, before, windows) if before else None,
        }
        amend(folder, loaded, loaded.manifest.model_copy(update=update))
    if as_json:
        print_json(report)
        return
    columns = ("variant", "layers", "fraction", "perplexity", "KL", *(["int8 perplexity"] if rounded else []))
    table = Table(*columns, title=f"{loaded.name} on {windows.name}")
    for row in report["sizes"]:
        quality = [f"{row['perplexity']:.2f}", f"{row['kl']:.3f}"]
        if rounded:
            quality.append(f"{row['perplexity_int8']:.2f}")
        table.add_row(row["variant"], str(row["layers"]), f"{row['fraction']:.3f}", *quality)
    terminal.print(table)
    if before:
        terminal.print(f"student before training: perplexity {before.perplexity:,.0f}", highlight=False)
