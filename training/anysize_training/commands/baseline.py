"""`anysize-train baseline`: models that are pruned or merged without training, beside the sizes of a family.

The report is one object:

- `study`: `baseline`; `command`; `teacher`; `family`, or null without `--against`.
- `dataset`, `dataset_sha256`, `tokens`: the text that was scored; null where none was.
- `calibration`: `dataset`, `dataset_sha256` and `tokens` of the text that methods measured on; null where none was.
- `laco_runs`: `[C, T]` of each run of LaCo.
- `rows`: those of `anysize_training.study.baselines.rows`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from anysize.console import print_json, say, terminal
from anysize.errors import SettingsError
from anysize.family.architectures import architecture_of
from anysize.family.export import export_model
from anysize.family.pretrained import load_model, load_tokenizer
from anysize.settings import resolve_device
from anysize_training.commands.family import family_depths, load_family
from anysize_training.commands.invocation import command_line
from anysize_training.commands.picture import check_picture
from anysize_training.commands.report_file import check_report_file, write_report
from anysize_training.distill.teacher import find_teacher
from anysize_training.stack import build
from anysize_training.study.baselines.baseline import Baseline, baselines_of
from anysize_training.study.baselines.method import Method
from anysize_training.study.baselines.rows import baseline_rows, family_rows
from anysize_training.study.baselines.subject import Subject
from anysize_training.study.evaluate import Evaluator
from anysize_training.study.texts import Text

_NEEDS_NO_TEXT: tuple[Method, ...] = ("naive", "untrained")


def make_baselines(
    teacher: str,
    methods: Sequence[Method],
    *,
    layers: Sequence[int],
    depths_of: Path | None,
    against: Path | None,
    calibration: Text | None,
    evaluation: Text | None,
    laco_runs: Sequence[tuple[int, float]],
    save: Path | None,
    out: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Prune or merge a teacher by some methods, score what comes out, print, draw and keep it.

    Args:
        teacher: `builtin:smollm2-135m`, a checkpoint folder, or a hub model's name.
        methods: in the order in which they are printed.
        layers: depths to reach; where there are none, those of a family below the teacher.
        depths_of: that family; `against` where it is None.
        against: a family of this teacher, whose sizes are scored too.
        calibration: what methods measure on.
        evaluation: what models are scored on.
        laco_runs: C and T of each run of LaCo.
        save: a folder, into which each model is written as a checkpoint.
        out: a JSON file for the report.
        plot: a picture to write, `.png` or `.svg`; needs `evaluation`.
        as_json: print one JSON object instead of a table.

    Raises:
        SettingsError: a file cannot be read or written, a text is missing, a depth cannot be reached, or the family is
            of another teacher.
    """
    if plot is not None:
        check_picture(plot)
        if evaluation is None:
            raise SettingsError("--plot shows what models are worth; add --evaluate-text FILE to score them")
    if out is not None:
        check_report_file(out)
    measuring = [method for method in methods if method not in _NEEDS_NO_TEXT]
    if measuring and calibration is None:
        raise SettingsError(f"{measuring[0]} measures the teacher on text; add --text FILE")
    if "untrained" in methods and against is None:
        raise SettingsError("untrained is what a family would be without training; add --against FAMILY")
    subject = _subject(teacher, against)
    depths = _depths(layers or family_depths(depths_of or against), subject.layers)
    windows = calibration.windows(subject.tokenizer) if calibration and measuring else None
    inputs_NL = windows.tokens_NL[:, :-1].to(subject.teacher.device) if windows else None
    baselines: list[Baseline] = []
    for method in methods:
        found = baselines_of(method, subject, depths, inputs_NL, laco_runs)
        say(f"{method}: {', '.join(str(len(one.stack)) if one.stack else 'none' for one in found)} layers")
        baselines += found
    scored = evaluation.windows(subject.tokenizer) if evaluation else None
    evaluator = Evaluator(subject.bank, scored) if scored else None
    rows = [*family_rows(subject, evaluator), *baseline_rows(subject, baselines, evaluator)]
    if save is not None:
        _save(subject, baselines, save)
    report: dict[str, Any] = {
        "study": "baseline",
        "command": command_line(),
        "teacher": subject.name,
        "family": subject.family.name if subject.family else None,
        "dataset": scored.name if scored else None,
        "dataset_sha256": scored.sha256 if scored else None,
        "tokens": scored.scored if scored else None,
        "calibration": {"dataset": windows.name, "dataset_sha256": windows.sha256, "tokens": windows.scored}
        if windows
        else None,
        "laco_runs": laco_runs if any(method.startswith("laco") for method in methods) else [],
        "rows": rows,
    }
    if out is not None:
        write_report(report, out)
    if plot is not None and scored is not None and evaluator is not None:
        from anysize_training.study.baselines.figure import save_figure

        whole = evaluator.quality_of(subject.teacher, "teacher").perplexity
        text = f"on {scored.scored:,} tokens of {scored.name}"
        save_figure(rows, plot, title=f"{subject.name}, pruned and merged", text=text, teacher_perplexity=whole)
        say(f"wrote {plot}")
    if as_json:
        print_json(report)
        return
    _print(report)


def _subject(named: str, against: Path | None) -> Subject:
    source, folder = find_teacher(named, say)
    name = Path(named).name
    if against is None:
        model = load_model(folder, dtype=torch.float32, device=resolve_device("auto"))
        return Subject(name, architecture_of(model.config, str(folder)), model, load_tokenizer(folder), None)
    _, family = load_family(against)
    assert family.manifest is not None
    if family.manifest.teacher.fingerprint != source.fingerprint:
        raise SettingsError(f"--against {against} is a family of another teacher than {named}; its weights differ")
    return Subject(name, family.bank.architecture, family.bank.teacher, family.tokenizer, family)


def _depths(layers: Sequence[int], whole: int) -> list[int]:
    depths = sorted({*layers} - {whole})
    if not depths:
        raise SettingsError("say which depths to reach: --layers 11,14, --depths-of FAMILY or --against FAMILY")
    if depths[0] < 1 or depths[-1] > whole:
        outside = depths[0] if depths[0] < 1 else depths[-1]
        raise SettingsError(f"a teacher of {whole} layers is pruned to 1 to {whole - 1}, not to {outside}")
    return depths


def _save(subject: Subject, baselines: Sequence[Baseline], folder: Path) -> None:
    for one in baselines:
        if one.stack is None or len(one.stack) != one.asked_layers:
            continue
        target = folder / f"{one.method}-{one.asked_layers}"
        card = (
            f"# {subject.name}, {one.asked_layers} of {subject.layers} layers\n\n"
            f"Made by `{command_line()}`, method `{one.method}`, without any training. The licence is the teacher's.\n"
        )
        model = build(subject.teacher, subject.architecture, one.stack)
        try:
            export_model(model, subject.architecture, subject.tokenizer, target, card=card)
        except FileExistsError as error:
            raise SettingsError(f"--save {folder}: {target.name} exists in it already; name another folder") from error
        except OSError as error:
            raise SettingsError(f"--save {folder} cannot be written: {error.strerror}") from error
        say(f"wrote {target}")


def _print(report: Mapping[str, Any]) -> None:
    text = f", on {report['tokens']} tokens of {report['dataset']}" if report["dataset"] else ""
    table = Table("method", "asked", "layers", "fraction", "perplexity", "KL", title=f"{report['teacher']}{text}")
    for row in report["rows"]:
        figures = ((row["fraction"], 3), (row["perplexity"], 2), (row["kl"], 3))
        shown = ["-" if value is None else f"{value:,.{digits}f}" for value, digits in figures]
        table.add_row(row["method"], str(row["asked_layers"]), str(row["layers"] or "none that small"), *shown)
    terminal.print(table)
