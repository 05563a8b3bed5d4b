"""The family: its folder and hashes, its teacher, and the calibration that latency budgets need."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from anysize.commands.checks.check import Check, tried
from anysize.errors import ArtifactError, FetchError
from anysize.family.artifact import check_files, teacher_folder
from anysize.family.family import builtin_folder
from anysize.family.manifest import read_manifest
from anysize.family.pair import Pair
from anysize.family.pretrained import checkpoint_fingerprint, weight_files
from anysize.settings import Settings
from anysize.sizing.calibration import Calibration, Key

_CALIBRATE = "run `anysize calibrate` with the options that serve gets; latency budgets need it"
_AGAIN = "copy the family again from where it was made"


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found of a family.

    Attributes:
        checks: the lines of the report.
        weight_bytes: that it takes in memory as float32 on disk does; None where it cannot be read.
    """

    checks: list[Check]
    weight_bytes: int | None


def examine_family(settings: Settings) -> Examined:
    """Look at everything that a service would read, and load nothing."""
    files = tried("family", lambda: _files(settings), _AGAIN)
    teacher = tried("teacher", lambda: _teacher(settings), "")
    is_whole = files.outcome == "ok" and teacher.outcome == "ok"
    checks = [files, teacher]
    if is_whole:
        checks.append(tried("calibration", lambda: _calibration(settings), _CALIBRATE, outcome="warn"))
    return Examined(checks, _weight_bytes(settings) if is_whole else None)


def _files(settings: Settings) -> Check:
    if settings.pair is not None:
        pair = Pair.kept(*settings.pair)
        return Check(name="family", outcome="ok", found=f"{pair.name}: a teacher and a student, not packed")
    folder = settings.family or builtin_folder()
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return Check(name="family", outcome="ok", found=f"{manifest.name} in {folder}: every file has its hash")


def _teacher(settings: Settings) -> Check:
    if settings.pair is not None:
        folder = Pair.kept(*settings.pair).teacher
        return Check(name="teacher", outcome="ok", found=str(folder))
    folder = settings.family or builtin_folder()
    manifest = read_manifest(folder)
    where = teacher_folder(folder, manifest)
    found = checkpoint_fingerprint(where)
    if found != manifest.teacher.fingerprint:
        advice = "run `anysize fetch` to bring the right one" if settings.family is None else _AGAIN
        what = f"{where} has weights {found[:12]}, not {manifest.teacher.fingerprint[:12]}"
        return Check(name="teacher", outcome="fail", found=what, advice=advice)
    return Check(name="teacher", outcome="ok", found=f"{where}: the weights that the student was made for")


def _calibration(settings: Settings) -> Check:
    keys = [
        Key.of(settings, compiled=way) for way in ((True, False) if settings.compile is None else (settings.compile,))
    ]
    if kept := next((key.path for key in keys if key.path.is_file()), None):
        return _kept(kept)
    if stale := _differing(keys[0]):
        found = f"made for another {', '.join(stale)}"
        return Check(name="calibration", outcome="warn", found=found, advice=_CALIBRATE)
    return Check(name="calibration", outcome="warn", found="there is none for this machine", advice=_CALIBRATE)


def _kept(path: Path) -> Check:
    try:
        Calibration.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return Check(name="calibration", outcome="warn", found=f"{path} cannot be used", advice=_CALIBRATE)
    return Check(name="calibration", outcome="ok", found=str(path))


def _differing(key: Key) -> list[str]:
    """In what the calibration of this family that comes nearest differs."""
    ours = key.model_dump()
    best: list[str] = []
    for path in key.path.parent.glob("*.json"):
        theirs = _key_in(path)
        if theirs.get("family_sha256") != ours["family_sha256"]:
            continue
        differing = [name for name, value in ours.items() if theirs.get(name) != value]
        if not best or len(differing) < len(best):
            best = differing
    return best


def _key_in(path: Path) -> dict[str, object]:
    try:
        return dict(json.loads(path.read_bytes())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _weight_bytes(settings: Settings) -> int | None:
    try:
        if settings.pair is not None:
            pair = Pair.kept(*settings.pair)
            files = [*weight_files(pair.teacher), *weight_files(pair.student)]
        else:
            folder = settings.family or builtin_folder()
            files = [*weight_files(teacher_folder(folder, read_manifest(folder))), *folder.glob("student.safetensors")]
        return sum(file.stat().st_size for file in files)
    except (ArtifactError, FetchError, OSError):
        return None
