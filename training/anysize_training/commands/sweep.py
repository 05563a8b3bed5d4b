"""`anysize-train sweep`: the same distillation with one thing changed at a time, over seeds."""

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from anysize.console import print_json, say, terminal
from anysize.family.files import write_whole
from anysize_training.commands.invocation import command_line
from anysize_training.commands.picture import check_picture
from anysize_training.study.sweep.runs import Runs
from anysize_training.study.sweep.summary import Point, summarise
from anysize_training.study.sweep.sweep import Sweep, load_sweep
from anysize_training.study.texts import Text


def run_sweep(named: str, out: Path, text: Text, overrides: Sequence[str], *, plot: Path | None, as_json: bool) -> bool:
    """Run what has not been run, score it, and print means and spreads.

    Args:
        named: a shipped sweep or a YAML file.
        out: the folder of runs, which sweeps may share; the report goes to `OUT/NAME.json`.
        text: what sizes are scored on.
        overrides: of every recipe.
        plot: a picture to write.
        as_json: print one JSON object instead of a table.

    Returns:
        Whether all runs came to their last step.

    Raises:
        SettingsError: a sweep, a recipe or a text is wrong.
    """
    if plot is not None:
        check_picture(plot)
    sweep = load_sweep(named)
    runs = Runs(out, text, list(overrides), command=shlex.split(command_line()), say=say)
    scored = list(runs.of(sweep))
    points = summarise(sweep, scored)
    report = _report(sweep, points, text)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / f"{sweep.name}.json", json.dumps(report, indent=2) + "\n")
    if plot is not None:
        from anysize_training.study.sweep.figure import draw_report

        draw_report(report, plot)
        say(f"wrote {plot}")
    if as_json:
        print_json(report)
    else:
        _print(sweep, points)
    return len(scored) == len(sweep.arms) * len(sweep.seeds)


def _report(sweep: Sweep, points: dict[str, list[Point]], text: Text) -> dict[str, Any]:
    return {
        "study": "sweep",
        "name": sweep.name,
        "shows": sweep.shows,
        "command": command_line(),
        "dataset": text.path.name,
        "dataset_sha256": hashlib.sha256(text.path.read_bytes()).hexdigest(),
        "tokens": text.max_tokens,
        "seeds": list(sweep.seeds),
        "arms": {
            name: {
                "label": sweep.arms[name].label or name,
                "changes": sweep.arms[name].changes,
                "only_student": sweep.arms[name].only_student,
                "sizes": [asdict(point) for point in sizes],
            }
            for name, sizes in points.items()
        },
    }


def _print(sweep: Sweep, points: dict[str, list[Point]]) -> None:
    table = Table("arm", "variant", "layers", "parameters", "perplexity", "KL", "seeds", title=sweep.shows)
    for arm, sizes in points.items():
        for size in sizes:
            table.add_row(
                sweep.arms[arm].label or arm,
                size.variant,
                str(size.layers),
                f"{size.parameters:,}",
                _spread(size.perplexity.mean, size.perplexity.deviation),
                _spread(size.kl.mean, size.kl.deviation),
                str(size.seeds),
            )
    terminal.print(table)


def _spread(mean: float, deviation: float | None) -> str:
    return f"{mean:.4g}" if deviation is None else f"{mean:.4g} ± {deviation:.2g}"
