"""The family folder: the one reader and the one writer of what training hands to serving.

A folder is checked whole (names, sizes, hashes, shapes, types) before the first weight is used, so a damaged one gives
one `ArtifactError` and nothing half loaded. It is written under a temporary name and renamed.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from anysize.errors import ArtifactError
from anysize.family.architectures import architecture_of
from anysize.family.bank import Bank
from anysize.family.delta import own_tensors
from anysize.family.fetch import builtin_teacher, hub_teacher
from anysize.family.files import new_folder, sha256_of
from anysize.family.manifest import (
    MANIFEST,
    BuiltinTeacher,
    DeltaStudent,
    FileEntry,
    FolderTeacher,
    Manifest,
    read_manifest,
)
from anysize.family.pretrained import Tokenizer, checkpoint_fingerprint, load_model, load_tokenizer, tied_names
from anysize.family.student import load_delta_student, load_full_student

STUDENT = "student.safetensors"
CARD = "README.md"
TEACHER = "teacher"


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """What a family folder holds."""

    manifest: Manifest
    bank: Bank
    tokenizer: Tokenizer


def read_family(folder: Path, *, dtype: torch.dtype, device: torch.device) -> Loaded:
    """Check a family folder and load it.

    Args:
        folder: with `family.json`.
        dtype: of the weights in memory.
        device: where they go.

    Raises:
        ArtifactError: anything about it is not as its manifest says.
        FetchError: its teacher is the built-in one, and that was not fetched.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    where = teacher_folder(folder, manifest)
    found = checkpoint_fingerprint(where)
    if found != manifest.teacher.fingerprint:
        raise ArtifactError(
            where,
            f"has weights {found[:12]}, but the student was made for {manifest.teacher.fingerprint[:12]}"
            + ("; run `anysize fetch` to bring those" if isinstance(manifest.teacher, BuiltinTeacher) else ""),
        )
    teacher = load_model(where, dtype=dtype, device=device)
    architecture = architecture_of(teacher.config, str(where))
    layers = len(architecture.layers_of(teacher))
    if (architecture.model_type, layers) != (manifest.architecture, manifest.teacher_layers):
        raise ArtifactError(
            folder / MANIFEST,
            f"is for a {manifest.architecture} teacher of {manifest.teacher_layers} layers, but {where} holds "
            f"a {architecture.model_type} of {layers}",
        )
    blocks = manifest.block_map()
    if isinstance(manifest.student, DeltaStudent):
        student = load_delta_student(folder / STUDENT, teacher, architecture, blocks, manifest.student.rank)
    else:
        student = load_full_student(folder / STUDENT, teacher, blocks)
    return Loaded(manifest, Bank(architecture, blocks, teacher, student), load_tokenizer(where))


def write_family(
    folder: Path,
    manifest: Manifest,
    bank: Bank,
    *,
    teacher_folder: Path,
    card: str,
    dtype: torch.dtype,
    plots: Sequence[Path] = (),
    replace: bool = False,
) -> Manifest:
    """Write a family folder atomically.

    Args:
        folder: to make.
        manifest: whose `files` are filled in here.
        bank: whose student is stored.
        teacher_folder: copied (hard-linked where possible) into the folder if the manifest's teacher is a folder.
        card: the model card, Markdown.
        dtype: in which the student is stored.
        plots: pictures that are copied into the folder.
        replace: whether a folder that is there gives way.

    Returns:
        The manifest as written.
    """
    with new_folder(folder, replace=replace) as building:
        save_file(student_tensors(bank, manifest, dtype), building / STUDENT)
        (building / CARD).write_text(card, encoding="utf-8")
        for plot in plots:
            shutil.copyfile(plot, building / plot.name)
        if isinstance(manifest.teacher, FolderTeacher):
            _link_teacher(teacher_folder, building / TEACHER)
        files = {
            path.relative_to(building).as_posix(): FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))
            for path in sorted(building.rglob("*"))
            if path.is_file()
        }
        written = manifest.model_copy(update={"files": files})
        (building / MANIFEST).write_text(written.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return written


def amend_family(folder: Path, manifest: Manifest, *, card: str) -> Manifest:
    """Give a family folder another manifest and card; its weights stay as they are.

    The folder is built anew beside the old one, with hard links to the weights, and takes its place whole.

    Returns:
        The manifest as written.
    """
    with new_folder(folder, replace=True) as building:
        for name in manifest.files:
            if name != CARD:
                (building / name).parent.mkdir(exist_ok=True)
                _link(folder / name, building / name)
        (building / CARD).write_text(card, encoding="utf-8")
        entry = FileEntry(bytes=len(card.encode()), sha256=sha256_of(building / CARD))
        written = manifest.model_copy(update={"files": manifest.files | {CARD: entry}})
        (building / MANIFEST).write_text(written.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return written


def student_tensors(bank: Bank, manifest: Manifest, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors that a family folder stores for its student, by name."""
    if isinstance(manifest.student, DeltaStudent):
        own = dict(own_tensors(bank.student, bank.teacher))
    else:
        tied = tied_names(bank.student.config)
        own = {name: tensor for name, tensor in bank.student.state_dict().items() if name not in tied}
    return {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in own.items()}


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file of a family folder with its size and hash.

    Raises:
        ArtifactError: one is missing, differs, or is not listed.
    """
    if STUDENT not in manifest.files:
        raise ArtifactError(folder / MANIFEST, f"lists no {STUDENT}")
    # A link to a folder counts as a file of its own: its contents are not of this folder.
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    root = folder.resolve()
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(root):
            raise ArtifactError(path, "leads outside the folder")
        if not path.is_file():
            raise ArtifactError(path, f"is missing, but {MANIFEST} lists it")
        if path.stat().st_size != entry.bytes:
            raise ArtifactError(path, f"has {path.stat().st_size} bytes, {MANIFEST} says {entry.bytes}")
        try:
            found = sha256_of(path)
        except OSError as error:
            raise ArtifactError(path, f"cannot be read: {error}") from error
        if found != entry.sha256:
            raise ArtifactError(path, f"has sha256 {found[:12]}, {MANIFEST} says {entry.sha256[:12]}")
    present = {path.relative_to(folder).as_posix() for path in paths}
    for name in sorted(present - manifest.files.keys() - {MANIFEST}):
        raise ArtifactError(folder / name, f"is not listed in {MANIFEST}")


def teacher_folder(folder: Path, manifest: Manifest) -> Path:
    """Where the teacher of a family folder lies; no network is touched.

    Raises:
        FetchError: it is not on this machine.
    """
    teacher = manifest.teacher
    if isinstance(teacher, FolderTeacher):
        return folder / TEACHER
    if isinstance(teacher, BuiltinTeacher):
        return builtin_teacher(teacher.name)
    return hub_teacher(teacher.repo, teacher.revision)


def _link_teacher(source: Path, target: Path) -> None:
    """Put a checkpoint's files into a family: hard links where the file system allows, copies elsewhere."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.suffix in {".json", ".safetensors", ".jinja", ".model", ".txt"}:
            _link(path, target / path.name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
