"""Making the student before training: which teacher layers are kept, and what the student starts from (paper, 2.1)."""

import copy
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from anysize.errors import ArtifactError, SettingsError
from anysize.family.architectures import Architecture
from anysize.family.artifact import STUDENT
from anysize.family.assembly import kept_layers, student_config
from anysize.family.bank import Bank
from anysize.family.blocks import BlockMap
from anysize.family.delta import delta_student, merge_updates, own_tensors
from anysize.family.family import builtin_folder
from anysize.family.files import sha256_of
from anysize.family.manifest import DeltaStudent, Manifest, read_manifest
from anysize.family.student import load_delta_student, load_full_student
from anysize_training.distill.recipe import EveryNth, FromFamily, KeptLayers, Student
from anysize_training.distill.selection.choose import choose
from anysize_training.stack import build, merged_blocks


def initial_bank(
    student: Student,
    teacher: PreTrainedModel,
    architecture: Architecture,
    *,
    seed: int,
    calibration_NL: Tensor | None = None,
) -> Bank:
    """Teacher and untrained student.

    By default layer i starts as teacher layer l_i, embedding and head as the teacher's. `weights: merged` starts it as
    its block merged by the paper's Equation 4 (LaCo), `weights: random` from transformers' own initialisation, `method:
    family` from the student of a family.

    Args:
        student: its kind, rank, kept layers and weights.
        teacher: the trained teacher.
        architecture: where its parts are.
        seed: of the first factor of `delta` updates, and of random weights; all else starts without chance.
        calibration_NL: token ids of N windows, for methods that measure.

    Returns:
        The bank; student, recipe and calibration tokens alone decide what is in it.

    Raises:
        SettingsError: the kept layers must be measured and there is no text, or they, or the family that is started
            from, do not fit the teacher or the student.
        BlockMapError: kept layers that are no block map of the teacher.
        ArtifactError: the family that is started from is damaged.
    """
    blocks = block_map(student, teacher, architecture, calibration_NL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(student.initialise, FromFamily):
            made = _student_of_family(student.initialise, student, teacher, architecture)
        elif student.kind == "delta":
            made = delta_student(teacher, architecture, blocks, student.rank)
        elif student.weights == "random":
            made = _random_student(teacher, blocks)
        elif student.weights == "merged":
            made = copy.deepcopy(build(teacher, architecture, merged_blocks(blocks)))
        else:
            made = copy.deepcopy(kept_layers(teacher, architecture, blocks))
    return Bank(architecture, blocks, teacher, made)


def parent_manifest(choice: FromFamily) -> Manifest:
    """The manifest of the family that a student starts from.

    Raises:
        SettingsError: there is no such folder.
        ArtifactError: its manifest is damaged.
    """
    if not _folder(choice).is_dir():
        raise SettingsError(
            f"student.initialise.path {choice.path} is no folder: distil that family first, or name another with "
            "--set student.initialise.path=FOLDER, where `builtin` is the one that ships"
        )
    return read_manifest(_folder(choice))


def block_map(
    student: Student, teacher: PreTrainedModel, architecture: Architecture, calibration_NL: Tensor | None = None
) -> BlockMap:
    """The block map that a recipe asks for; arguments and errors are those of `initial_bank`."""
    choice = student.initialise
    layers = len(architecture.layers_of(teacher))
    if isinstance(choice, KeptLayers):
        return BlockMap(choice.layers, layers)
    if isinstance(choice, EveryNth):
        return BlockMap.every_nth(layers, n=choice.n, first=choice.first, last=choice.last)
    if isinstance(choice, FromFamily):
        return _manifest_of(choice, teacher, architecture).block_map()
    if calibration_NL is None:
        raise SettingsError(
            f"student.initialise.method {choice.method} measures the teacher on text, and there is none here: run "
            f"`anysize-train init TEACHER --method {choice.method} --layers {choice.layers} --longest-block "
            f"{choice.longest_block} --text FILE` and put the layers that it prints into the recipe"
        )
    selection = choose(
        choice.method,
        architecture,
        teacher,
        calibration_NL,
        student_layers=choice.layers,
        longest_block=choice.longest_block,
    )
    return selection.blocks


def _random_student(teacher: PreTrainedModel, blocks: BlockMap) -> PreTrainedModel:
    # The same weights whatever device they go to, except where a plan wants none at all.
    with torch.device("meta" if teacher.device.type == "meta" else "cpu"):
        made = type(teacher)(copy.deepcopy(student_config(teacher.config, blocks)))
    return made.to(device=teacher.device, dtype=teacher.dtype)  # pyright: ignore[reportCallIssue]  (transformers hides the signature)


def _student_of_family(
    choice: FromFamily, student: Student, teacher: PreTrainedModel, architecture: Architecture
) -> PreTrainedModel:
    manifest = _manifest_of(choice, teacher, architecture)
    blocks, path = manifest.block_map(), _folder(choice) / STUDENT
    if STUDENT not in manifest.files or not path.is_file() or sha256_of(path) != manifest.files[STUDENT].sha256:
        raise ArtifactError(path, "is not the file that family.json lists")
    if not isinstance(manifest.student, DeltaStudent):
        if student.kind == "delta":
            raise SettingsError(
                f"student.kind is delta, but the student of {choice.path} has weights of its own, which are no updates "
                "of the teacher's; set student.kind to full"
            )
        return load_full_student(path, teacher, blocks)
    rank = manifest.student.rank
    stored = load_delta_student(path, teacher, architecture, blocks, rank)
    if student.kind == "full":
        with torch.no_grad():
            merged = copy.deepcopy(merge_updates(stored))
        assert isinstance(merged, PreTrainedModel)
        return merged
    if student.rank < rank:
        raise SettingsError(
            f"student.rank is {student.rank}, but the student of {choice.path} has rank {rank}, and less would lose "
            f"what it has learnt; set student.rank to {rank} or more"
        )
    return _widened(stored, teacher, delta_student(teacher, architecture, blocks, student.rank))


@torch.no_grad()
def _widened(stored: PreTrainedModel, teacher: PreTrainedModel, wider: PreTrainedModel) -> PreTrainedModel:
    """Put updates into a new student of the same or a larger rank, whose added directions have no effect yet."""
    tensors = own_tensors(stored, teacher)
    for name, parameter in own_tensors(wider, teacher).items():
        parameter[tuple(slice(length) for length in tensors[name].shape)] = tensors[name]
    return wider


def _manifest_of(choice: FromFamily, teacher: PreTrainedModel, architecture: Architecture) -> Manifest:
    manifest = parent_manifest(choice)
    ours = (architecture.model_type, len(architecture.layers_of(teacher)))
    theirs = (manifest.architecture, manifest.teacher_layers)
    if ours != theirs:
        raise SettingsError(
            f"student.initialise.path {choice.path} is a family of a {theirs[0]} teacher of {theirs[1]} layers, but "
            f"the recipe's teacher is a {ours[0]} of {ours[1]}; start from a family of the same teacher"
        )
    return manifest


def _folder(choice: FromFamily) -> Path:
    return builtin_folder() if choice.path == "builtin" else Path(choice.path)
