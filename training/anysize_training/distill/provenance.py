"""What a family says about how it was made: command, recipe, and hashes of all that took part."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anysize.family.bank import Bank
from anysize.family.files import sha256_of
from anysize.family.manifest import DeltaStudent, FolderTeacher, FullStudent, Manifest, Provenance
from anysize_training.distill.checkpoint import Identity, Progress
from anysize_training.distill.corpus import Corpus
from anysize_training.distill.recipe import FromFamily, Recipe, Run
from anysize_training.distill.teacher import TeacherSource

# A path from the root, at the start of a word or of a value inside it.
_ABSOLUTE = re.compile(r"(?:(?<=[=:,{\[\s\"'])|^)/[^,}\]\s\"']+")
_PACKAGES = ("anysize", "torch", "transformers")


def identity_of(recipe: Recipe, source: TeacherSource, corpus: Corpus, start: str | None) -> Identity:
    """What must be the same for a run to be resumed.

    Where text, teacher and first student lie does not count, since their hashes do; nor does what changes no weight.

    Args:
        recipe: of the run.
        source: of the teacher.
        corpus: the text.
        start: sha256 of the student that the run goes on from, where it does.
    """
    values = recipe.model_dump(mode="json")
    values["teacher"] = values["data"]["source"] = values["data"]["cache"] = None
    values["student"]["initialise"].pop("path", None)
    for name in ("device", "checkpoint_every", "evaluate_every"):
        values["run"][name] = Run.model_fields[name].default
    return Identity(_sha256_of(values), corpus.sha256, source.fingerprint, start)


def manifest_of(
    recipe: Recipe,
    bank: Bank,
    source: TeacherSource,
    corpus: Corpus,
    progress: Progress,
    *,
    command: Sequence[str],
    code: str,
) -> Manifest:
    """The manifest of a run's family, still without files.

    Args:
        recipe: of the run; folders of this machine are left out, since they mean nothing elsewhere.
        bank: what came out.
        source: of the teacher.
        corpus: the text.
        progress: of the last step.
        command: the command line.
        code: `code_sha256` as it was when the run, or its last session, began.
    """
    text, student, public = recipe.data.file, recipe.student, _public(recipe, source).model_dump(mode="json")
    return Manifest(
        name=recipe.name,
        architecture=bank.architecture.model_type,
        teacher_layers=bank.blocks.teacher_layers,
        kept_layers=bank.blocks.kept,
        teacher=source,
        student=DeltaStudent(rank=student.rank) if student.kind == "delta" else FullStudent(),
        patch_order=recipe.patch_order,
        files={},
        provenance=Provenance(
            command=shlex.join(without_folders(command)),
            recipe=public,
            recipe_sha256=_sha256_of(public),
            started_from_sha256=progress.identity.start,
            data=text.name if text.is_file() else recipe.data.source,
            data_sha256=corpus.source_sha256,
            tokens_sha256=corpus.sha256,
            code_sha256=code,
            tokens=progress.tokens,
            seconds=progress.seconds,
            versions={name: version(name) for name in _PACKAGES},
        ),
    )


def code_sha256() -> str:
    """A hash of every module of both packages, by name and content."""
    digest = hashlib.sha256()
    for package in ("anysize", "anysize_training"):
        root = Path(str(resources.files(package)))
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root).as_posix()}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()


def without_folders(command: Sequence[str]) -> list[str]:
    """The words of a command line, with files of this machine by their names alone."""
    return [_ABSOLUTE.sub(lambda path: Path(path[0]).name, _shortened(word)) for word in command]


def _public(recipe: Recipe, source: TeacherSource) -> Recipe:
    student, data = recipe.student, recipe.data
    if isinstance(student.initialise, FromFamily):
        path = _shortened(student.initialise.path)
        student = student.model_copy(update={"initialise": student.initialise.model_copy(update={"path": path})})
    shortened = {"source": _shortened(data.source), "cache": None}
    return recipe.model_copy(
        update={
            "teacher": Path(recipe.teacher).name if isinstance(source, FolderTeacher) else recipe.teacher,
            "student": student,
            "data": data.model_copy(update=shortened),
        }
    )


def _shortened(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


def _sha256_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
