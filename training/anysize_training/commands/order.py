"""`anysize-train order`: in which order the positions of a family are best patched."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from anysize.console import print_json, say, terminal
from anysize.errors import SettingsError
from anysize.family.family import Family
from anysize.family.variant import Variant
from anysize_training.commands.family import load_family
from anysize_training.commands.invocation import command_line
from anysize_training.commands.picture import check_picture
from anysize_training.commands.report_file import check_report_file, write_report
from anysize_training.study.evaluate import Evaluator
from anysize_training.study.measure import amend_ladder
from anysize_training.study.order.contender import Contender, Means, best_subsets, contend
from anysize_training.study.order.exact import check_positions
from anysize_training.study.order.method import Method
from anysize_training.study.order.scores import Scores
from anysize_training.study.patchwork import Patchwork
from anysize_training.study.quality import Quality
from anysize_training.study.texts import Text, Windows

_PRESENT = "present"


def find_order(
    family: Path,
    calibration: Text,
    method: Method,
    *,
    compare: bool,
    evaluation: Text | None,
    out: Path | None,
    plot: Path | None,
    write: bool,
    as_json: bool,
) -> None:
    """Find a patch order, or compare all ways to find one; print it, keep it, draw it, write it into the family.

    Args:
        family: its folder, or `builtin`.
        calibration: what orders are chosen by.
        method: how; `compare` adds the others, but `exact` only where it is the method.
        compare: put the others and the family's present ladder beside it.
        evaluation: another text, which no order is chosen by.
        out: a JSON file for the report. Scores are kept beside it as they come, and a second run takes them up.
        plot: a picture to write, `.png` or `.svg`.
        write: make the best, by the calibration text, the family's ladder.
        as_json: print one JSON object instead of a table.

    Raises:
        SettingsError: a file cannot be read or written, or the family is too large for `exact`, or too small.
    """
    if plot is not None:
        check_picture(plot)
    if out is not None:
        check_report_file(out)
    folder, loaded = load_family(family)
    blocks = loaded.bank.blocks
    if method == "exact":
        check_positions(loaded.positions)
    if len({size.layers for size in loaded.ladder}) < 3:
        raise SettingsError(f"{loaded.name} has no size between student and teacher that an order could change")
    windows = calibration.windows(loaded.tokenizer)
    held_out = evaluation.windows(loaded.tokenizer) if evaluation else None
    scores = _scores(loaded, windows, out)
    contenders = [_timed(one, scores) for one in _methods(method, compare=compare)]
    if method == "exact":
        contenders.append(best_subsets(scores))
    if compare:
        contenders.append(Contender(_PRESENT, None, tuple(size.variant for size in loaded.ladder)))
    sizes = list(dict.fromkeys(variant for contender in contenders for variant in contender.ladder))
    texts = {f"calibration: {windows.name}": scores.of(sizes, "scoring ladders")}
    if held_out is not None:
        found = Evaluator(loaded.bank, held_out).qualities(sizes)
        texts[f"evaluation: {held_out.name}"] = {variant: found[variant.id] for variant in sizes}
    rows = [(one, [Means.of(one.ladder, text, blocks) for text in texts.values()]) for one in contenders]
    best = min(rows, key=lambda row: row[1][0].depths_kl)[0]
    if plot is not None:
        from anysize_training.study.order.figure import save_figure

        save_figure(contenders, texts, blocks, plot, title=f"{loaded.name}: patch orders")
        say(f"wrote {plot}")
    report = _report(loaded, rows, list(texts.values()), [windows, *([held_out] if held_out else [])], best)
    if out is not None:
        write_report(report, out)
    if write:
        _write(folder, loaded, best)
    if as_json:
        print_json(report)
        return
    _print(loaded, rows, [*texts], windows.scored, best)


def _methods(method: Method, *, compare: bool) -> list[Method]:
    others: list[Method] = [one for one in get_args(Method) if one not in (method, "exact")] if compare else []
    return [method, *others]


def _timed(method: Method, scores: Scores) -> Contender:
    begun = time.monotonic()
    found = contend(method, scores)
    say(f"{method}: {', '.join(map(str, found.order or ()))} after {time.monotonic() - begun:.0f} s")
    return found


def _scores(family: Family, windows: Windows, out: Path | None) -> Scores:
    assert family.manifest is not None
    made_of = {
        "family": family.name,
        "teacher": family.manifest.teacher.fingerprint,
        "student": family.manifest.files["student.safetensors"].sha256,
        "text": windows.sha256,
        "windows": windows.tokens_sha256,
    }
    patchwork = Patchwork(family.bank, windows)
    return Scores(patchwork, made_of, out.with_suffix(".scores.json") if out else None)


def _write(folder: Path, family: Family, best: Contender) -> None:
    if best.name == _PRESENT:
        say("the family's present ladder is the best of them and stays")
        return
    amend_ladder(folder, family, best.ladder, command_line(), patch_order=best.order)
    say(f"wrote the ladder of {best.name}: {len(best.ladder)} sizes")


def _report(
    family: Family,
    rows: Sequence[tuple[Contender, list[Means]]],
    qualities: Sequence[Mapping[Variant, Quality]],
    windows: Sequence[Windows],
    best: Contender,
) -> dict[str, Any]:
    names = ("calibration", "evaluation")
    texts = {
        name: {"dataset": text.name, "dataset_sha256": text.sha256, "tokens": text.scored}
        for name, text in zip(names, windows, strict=False)
    }
    orders: list[dict[str, Any]] = []
    for contender, means in rows:
        ladder = [
            {
                "variant": variant.id,
                "layers": variant.depth(family.bank.blocks),
                **{
                    name: {"kl": found[variant].kl, "perplexity": found[variant].perplexity}
                    for name, found in zip(names, qualities, strict=False)
                },
            }
            for variant in contender.ladder
        ]
        shown = {name: asdict(mean) for name, mean in zip(names, means, strict=False)}
        orders.append({"method": contender.name, "order": contender.order, "means": shown, "ladder": ladder})
    return {"family": family.name, "command": command_line(), "texts": texts, "best": best.name, "orders": orders}


def _print(
    family: Family,
    rows: Sequence[tuple[Contender, list[Means]]],
    texts: Sequence[str],
    tokens: int,
    best: Contender,
) -> None:
    for number, text in enumerate(texts):
        table = Table("method", "sizes", "KL", "perplexity", "KL, own", "perplexity, own", title=text)
        for contender, means in rows:
            mean = means[number]
            figures = (mean.depths_kl, mean.depths_perplexity, mean.sizes_kl, mean.sizes_perplexity)
            digits = (3, 2, 3, 2)
            shown = [f"{figure:.{places}f}" for figure, places in zip(figures, digits, strict=True)]
            table.add_row(contender.name, str(len(contender.ladder)), *shown)
        terminal.print(table)
    terminal.print("means over all depths between student and teacher; own: over the ladder's own interior sizes")
    for contender, _ in rows:
        shown = ", ".join(map(str, contender.order)) if contender.order else "not nested"
        terminal.print(f"{contender.name}: {shown}", highlight=False, soft_wrap=True)
    terminal.print(f"best on {tokens} tokens of calibration text: {best.name}, for {family.name}", highlight=False)
