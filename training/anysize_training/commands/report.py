"""`anysize-train report`: every experiment on a family, one after the other, and the pages that show them."""

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anysize.console import print_json, say
from anysize.errors import SettingsError
from anysize.family.files import sha256_of, write_whole
from anysize.family.manifest import BuiltinTeacher, FolderTeacher, read_manifest
from anysize_training.commands.family import family_folder
from anysize_training.commands.invocation import command_line
from anysize_training.distill.provenance import without_folders
from anysize_training.study.report.experiments import FAMILY_EXPERIMENTS, SWEEP_EXPERIMENTS, Experiment, Subject
from anysize_training.study.report.page import Section, markdown, page
from anysize_training.study.report.texts import Texts
from anysize_training.study.report.verdict import Report, Verdict


def report_family(
    named: str,
    *,
    texts: Texts,
    out: Path,
    sweeps: Path | None,
    quick: bool,
    as_json: bool,
) -> None:
    """Run what has not been run, and write `OUT/report.md` and `OUT/report.html`.

    Args:
        named: the family's folder, or `builtin`.
        texts: to calibrate and to score on.
        out: the folder of pages, pictures and `data/`; what lies there from the same commands is not run again.
        sweeps: a folder of `anysize-train sweep`, read and not run; what it has no report of is as `out` has it.
        quick: score and calibrate on less.
        as_json: print the verdicts as one JSON object.

    Raises:
        SettingsError: a file is missing, or a command failed.
    """
    folder = family_folder(Path(named))
    manifest = read_manifest(folder)
    subject = Subject(
        family=named,
        teacher=_teacher(manifest.teacher, folder),
        texts=texts,
        sweeps=sweeps or Path("sweeps"),
        quick=quick,
    )
    (out / "data").mkdir(parents=True, exist_ok=True)
    made_of = [sha256_of(file) for file in (folder / "family.json", texts.calibration, texts.evaluation)]
    sections: list[Section] = []
    for number, experiment in enumerate(FAMILY_EXPERIMENTS, start=1):
        say(f"{number} of {len(FAMILY_EXPERIMENTS)}: {experiment.title}")
        sections.append(_run(experiment, subject, made_of, out))
    sections += [_read(experiment, subject, out) for experiment in SWEEP_EXPERIMENTS]
    title = f"{manifest.name}: the paper's experiments"
    written = markdown(title, _introduction(subject, sections), sections)
    write_whole(out / "report.md", written)
    write_whole(out / "report.html", page(title, written, sections))
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


def _run(experiment: Experiment, subject: Subject, made_of: Sequence[str], out: Path) -> Section:
    """Run its command in a process of its own, as anybody would, unless what that says is there already."""
    result, picture = out / "data" / f"{experiment.id}.json", out / f"{experiment.id}.svg"
    words = experiment.words(subject)
    command = _command(words)
    key = hashlib.sha256(json.dumps([command, *made_of]).encode()).hexdigest()
    kept: dict[str, Any] = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    if kept.get("key") != key:
        said = _said([*words, *(["--plot", str(picture)] if experiment.has_picture else []), "--json"])
        kept = {"key": key, "report": said}
        write_whole(result, json.dumps(kept, indent=1) + "\n")
    return Section(experiment, experiment.judge(kept["report"]), command, picture if picture.exists() else None)


def _said(words: Sequence[str]) -> Report:
    command = [sys.executable, "-m", "anysize_training", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603  (our own interpreter)
    if done.returncode:
        raise SettingsError(f"anysize-train {shlex.join(words)} ended with code {done.returncode}; see above")
    return json.loads(done.stdout)


def _read(experiment: Experiment, subject: Subject, out: Path) -> Section:
    """Read a sweep that has been run, and keep what it says; its picture is drawn again."""
    source, kept = subject.sweeps / f"{experiment.id}.json", out / "data" / f"{experiment.id}.json"
    if source.exists():
        write_whole(kept, source.read_text(encoding="utf-8"))
    if not kept.exists():
        verdict = Verdict("not run", "needs runs of a small teacher, minutes each; give their folder as --sweeps")
        return Section(experiment, verdict, _command(experiment.words(subject)), None)
    from anysize_training.study.sweep.figure import draw_report

    report: Report = json.loads(kept.read_text(encoding="utf-8"))
    picture = out / f"{experiment.id}.svg"
    draw_report(report, picture)
    return Section(experiment, experiment.judge(report), report["command"], picture)


def _command(words: Sequence[str]) -> str:
    return shlex.join(["anysize-train", *without_folders(words)])


def _introduction(subject: Subject, sections: Sequence[Section]) -> list[str]:
    counts = {
        status: sum(one.verdict.status == status for one in sections)
        for status in ("reproduced", "not reproduced", "finding", "not run")
    }
    return [
        "Each experiment of the paper on boomerang distillation for this family, beside the paper's claim, with the "
        "command that gives its figures. *Finding* marks what the paper leaves open.",
        ", ".join(f"{count} {status}" for status, count in counts.items())
        + f". Scored on {subject.tokens:,} tokens of `{subject.texts.evaluation.name}`, calibrated on "
        + f"`{subject.texts.calibration.name}`, unless a command says otherwise. Made by `{command_line()}`.",
    ]
