"""What a family says about how it was made: command, recipe, and hashes of all that took part."""

import hashlib
import shlex
from collections.abc import Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from anysize.family.bank import Bank
from anysize.family.files import sha256_of
from anysize.family.manifest import DeltaStudent, FolderTeacher, FullStudent, Manifest, Provenance
from anysize_training.distill.checkpoint import Progress
from anysize_training.distill.recipe import FromFamily, Recipe
from anysize_training.distill.teacher import TeacherSource

_PACKAGES = ("anysize", "torch", "transformers")


def manifest_of(
    recipe: Recipe, bank: Bank, source: TeacherSource, progress: Progress, command: Sequence[str]
) -> Manifest:
    """The manifest of a run's family, still without files.

    Args:
        recipe: of the run; folders of this machine are left out, since they mean nothing elsewhere.
        bank: what came out.
        source: of the teacher.
        progress: of the last step.
        command: the command line.
    """
    text, student = recipe.data.file, recipe.student
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
            command=shlex.join(_without_folders(command)),
            recipe=_public(recipe, source).model_dump(mode="json"),
            recipe_sha256=progress.identity.recipe,
            data=text.name if text.is_file() else recipe.data.source,
            data_sha256=sha256_of(text) if text.is_file() else None,
            tokens_sha256=progress.identity.text,
            code_sha256=code_sha256(),
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


def _without_folders(command: Sequence[str]) -> list[str]:
    shortened = []
    for word in command:
        key, equals, value = word.rpartition("=")
        shortened.append(f"{key}{equals}{_shortened(value)}")
    return shortened


def _shortened(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path
