"""`anysize-train report`: every experiment on a family, one after the other, and the pages that show them."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anysize.console import print_json, say
from anysize.errors import SettingsError
from anysize.family.family import builtin_folder
from anysize.family.manifest import BuiltinTeacher, FolderTeacher, read_manifest
from anysize_training.commands.invocation import command_line
from anysize_training.study.report.experiments import Experiment, Subject, family_experiments, sweep_experiments
from anysize_training.study.report.page import Section, markdown, page
from anysize_training.study.report.verdict import Report, Verdict

_BUILTIN = ("builtin", "smollm2-135m")


def report_family(
    named: str,
    *,
    text: Path,
    first_row: int,
    evaluation: Path,
    wikitext: bool,
    out: Path,
    sweeps: Path | None,
    quick: bool,
    as_json: bool,
) -> None:
    """Run what has not been run, and write `OUT/report.md` and `OUT/report.html`.

    Args:
        named: the family's folder, or `builtin`.
        text: to calibrate on.
        first_row: of it.
        evaluation: the text to score on.
        wikitext: whether that is WikiText, word-tokenised.
        out: the folder of pages, pictures and `data/`; what lies there from the same commands is not run again.
        sweeps: a folder of `anysize-train sweep`, read and not run.
        quick: score and calibrate on less.
        as_json: print the verdicts as one JSON object.

    Raises:
        SettingsError: a file is missing, or a command failed.
    """
    family = "builtin" if named in _BUILTIN else named
    manifest = read_manifest(builtin_folder() if family == "builtin" else Path(family))
    subject = Subject(
        family=family,
        teacher=_teacher(manifest.teacher, Path(family)),
        text=text,
        first_row=first_row,
        evaluation=evaluation,
        wikitext=wikitext,
        quick=quick,
    )
    (out / "data").mkdir(parents=True, exist_ok=True)
    of_family = family_experiments(subject)
    sections = []
    for number, experiment in enumerate(of_family, start=1):
        say(f"{number} of {len(of_family)}: {experiment.title}")
        sections.append(_run(experiment, out))
    sections += [_read(experiment, sweeps, out) for experiment in sweep_experiments(subject, sweeps or Path("sweeps"))]
    title = f"{manifest.name}: the paper's experiments"
    introduction = _introduction(subject, sections)
    written = markdown(title, introduction, sections)
    (out / "report.md").write_text(written, encoding="utf-8")
    (out / "report.html").write_text(page(title, written, sections), encoding="utf-8")
    say(f"wrote {out / 'report.md'} and {out / 'report.html'}")
    if as_json:
        verdicts = [
            {
                "id": one.experiment.id,
                "status": one.verdict.status,
                "finding": one.verdict.finding,
                "command": one.command,
            }
            for one in sections
        ]
        print_json({"study": "report", "family": manifest.name, "experiments": verdicts})


def _teacher(source: Any, family: Path) -> str:
    if isinstance(source, BuiltinTeacher):
        return f"builtin:{source.name}"
    return str(family / "teacher") if isinstance(source, FolderTeacher) else source.repo


def _run(experiment: Experiment, out: Path) -> Section:
    """Run its command in a process of its own, as anybody would, unless its result is there."""
    result, picture = out / "data" / f"{experiment.id}.json", out / f"{experiment.id}.svg"
    command = _shown(experiment.words)
    if not (result.exists() and json.loads(result.read_text(encoding="utf-8"))["of"] == command):
        words = [*experiment.words, *(["--plot", str(picture)] if experiment.has_picture else []), "--json"]
        done = subprocess.run(  # noqa: S603  (our own interpreter, words of our own)
            [sys.executable, "-m", "anysize_training", *words],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ,
        )
        if done.returncode:
            raise SettingsError(f"anysize-train {shlex.join(words)} ended with code {done.returncode}; see above")
        kept = {"of": command, "report": json.loads(done.stdout)}
        unfinished = result.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        unfinished.rename(result)
    report: Report = json.loads(result.read_text(encoding="utf-8"))["report"]
    return Section(experiment, experiment.judge(report), command, picture if picture.exists() else None)


def _read(experiment: Experiment, sweeps: Path | None, out: Path) -> Section:
    """Read a sweep that has been run; its picture is drawn again."""
    command = _shown(experiment.words)
    source = sweeps / f"{experiment.id}.json" if sweeps else None
    if source is None or not source.exists():
        verdict = Verdict("not run", f"needs {experiment.needs}; run it and give its folder as --sweeps")
        return Section(experiment, verdict, command, None)
    from anysize_training.study.sweep.figure import draw_report

    report: Report = json.loads(source.read_text(encoding="utf-8"))
    picture = out / f"{experiment.id}.svg"
    draw_report(report, picture)
    return Section(experiment, experiment.judge(report), f"{report['command']}", picture)


def _shown(words: Sequence[str]) -> str:
    """The command, with files of this machine by their names alone."""
    return shlex.join(["anysize-train", *(Path(word).name if Path(word).is_absolute() else word for word in words)])


def _introduction(subject: Subject, sections: Sequence[Section]) -> list[str]:
    counts = {
        status: sum(one.verdict.status == status for one in sections)
        for status in ("reproduced", "not reproduced", "finding", "not run")
    }
    return [
        "Each experiment of the paper on boomerang distillation for this family, beside the paper's claim, with the "
        "command that gives its figures. *Finding* marks what the paper leaves open.",
        ", ".join(f"{count} {status}" for status, count in counts.items())
        + f". Scored on {subject.tokens:,} tokens of `{subject.evaluation.name}`, calibrated on `{subject.text.name}`, "
        + f"unless a command says otherwise. Made by `{command_line()}`.",
    ]
