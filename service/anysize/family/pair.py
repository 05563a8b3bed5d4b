"""A teacher and a student that are named, not packed: folders, or models on the Hugging Face hub."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from anysize.errors import ArtifactError, FetchError
from anysize.family.family import Family
from anysize.family.fetch import hub_teacher
from anysize.family.int8 import Quantization
from anysize.family.order import PatchOrder
from anysize.family.pretrained import load_config, weight_files
from anysize.family.student import PUBLISHED

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9._/-]+)?")
# Of the published students (paper, Appendix B), those of Llama are best patched from the front.
_FRONT_FIRST = frozenset({"llama"})


@dataclass(frozen=True, slots=True)
class Pair:
    """The folders of a teacher and of a student in the format of the paper's authors.

    Attributes:
        name: of the family: the teacher's.
        teacher: a checkpoint folder with a tokenizer.
        student: a checkpoint folder with `student_config.json`.
    """

    name: str
    teacher: Path
    student: Path

    @classmethod
    def found(cls, teacher: str, student: str, say: Callable[[str], None]) -> "Pair":
        """Look for both; what is on the hub is downloaded once.

        Args:
            teacher: a folder, or a name on the hub such as `Qwen/Qwen3-4B-Base`, with `@REVISION` if need be.
            student: likewise.
            say: told in one line what is being done.

        Raises:
            FetchError: there is no such folder, and no such model on the hub or no way to it.
            ArtifactError: a folder is no such checkpoint.
        """
        return cls._of(teacher, student, lambda role, named: _folder(role, named, say))

    @classmethod
    def kept(cls, teacher: str, student: str) -> "Pair":
        """Like `found`, of what is on this machine already."""
        return cls._of(teacher, student, lambda role, named: _folder(role, named, None))

    @classmethod
    def _of(cls, teacher: str, student: str, folder_of: Callable[[str, str], Path]) -> "Pair":
        folders = folder_of("teacher", teacher), folder_of("student", student)
        for role, folder in zip(("teacher", "student"), folders, strict=True):
            _check(role, folder)
        name = teacher.partition("@")[0] if not Path(teacher).is_dir() else str(folders[0].resolve())
        return cls(Path(name).name, *folders)

    def load(
        self,
        *,
        dtype: torch.dtype,
        device: torch.device,
        patch_order: PatchOrder | None = None,
        quantization: Quantization | None = None,
    ) -> Family:
        """Load it; without a patch order in the one that suits its architecture.

        Raises:
            ArtifactError: a checkpoint is damaged, or they are no pair.
        """
        return Family.from_pair(
            self.teacher,
            self.student,
            dtype=dtype,
            device=device,
            patch_order=patch_order or default_order(load_config(self.teacher).model_type),
            quantization=quantization,
            name=self.name,
        )

    def shape_sha256(self) -> str:
        """Of the configs and of the kept layers: of all that the time of a step depends on."""
        files = (self.teacher / "config.json", self.student / "config.json", self.student / PUBLISHED)
        return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def default_order(architecture: str) -> PatchOrder:
    """The order in which the published students of an architecture are patched."""
    return "first_to_last" if architecture in _FRONT_FIRST else "last_to_first"


def _folder(role: str, named: str, say: Callable[[str], None] | None) -> Path:
    """The folder of what is named; without `say` the network is left alone."""
    folder = Path(named).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(named):
        raise FetchError(f"the {role} {named!r} is no folder, and no name on the hub such as Qwen/Qwen3-4B-Base")
    repo, _, revision = named.partition("@")
    if say is not None:
        say(f"there is no folder {named}; bringing it from the Hugging Face hub unless it is here already")
    try:
        return hub_teacher(repo, revision or None, download=say is not None)
    except FetchError as error:
        raise FetchError(
            f"the {role} {named!r} is no folder on this machine, and {error}. For models behind a licence run "
            "`hf auth login` first"
        ) from error


def _check(role: str, folder: Path) -> None:
    """What is missing, before minutes are spent on loading the other."""
    needed = {
        "teacher": ("config.json", "tokenizer.json", "tokenizer_config.json"),
        "student": ("config.json", PUBLISHED),
    }
    for name in needed[role]:
        if not (folder / name).is_file():
            what = {
                PUBLISHED: "it lists the teacher layers that the student's were copied from; --student wants a model "
                "in the format of the paper's authors, such as Harvard-DCML/boomerang-qwen3-2.3B",
                "config.json": f"--{role} wants a Hugging Face checkpoint",
            }.get(name, "the tokenizer is the teacher's; copy it from the model's page")
            raise ArtifactError(folder / name, f"is missing: {what}")
    for path in weight_files(folder):
        if not path.is_file():
            raise ArtifactError(
                path, f"is missing: the {role}'s weights must be safetensors; other formats are not read"
            )
