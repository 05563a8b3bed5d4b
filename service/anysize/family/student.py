"""Loading students: `full` and `delta` files of a family folder, and the format the paper's authors publish."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from anysize.errors import AnysizeError, ArtifactError
from anysize.family.architectures import Architecture
from anysize.family.assembly import student_config
from anysize.family.blocks import BlockMap
from anysize.family.delta import delta_student, load_own_tensors, own_tensors
from anysize.family.pretrained import check_shapes, expected_shapes, file_shapes, load_model, read_json, tied_names

PUBLISHED = "student_config.json"
_DEPTH_FIELDS = frozenset({"num_hidden_layers", "n_layer", "layer_types", "max_window_layers"})
# Fields that differ between checkpoints of one model without changing what it computes.
_COSMETIC_FIELDS = frozenset(
    {
        "_name_or_path",
        "_model_name_or_path",
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
) | {"tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"}


def load_delta_student(
    path: Path, teacher: PreTrainedModel, architecture: Architecture, blocks: BlockMap, rank: int
) -> PreTrainedModel:
    """Load the updates of a `delta` student onto its teacher.

    Raises:
        ArtifactError: the file does not hold exactly the tensors of such a student.
    """
    found = file_shapes(path)
    student = delta_student(teacher, architecture, blocks, rank)
    expected = {name: tuple(parameter.shape) for name, parameter in own_tensors(student, teacher).items()}
    check_shapes(path, expected, tied=frozenset(), found=found)
    load_own_tensors(student, teacher, load_file(path))
    return student


def load_full_student(path: Path, teacher: PreTrainedModel, blocks: BlockMap) -> PreTrainedModel:
    """Load a student with weights of its own from one file.

    Raises:
        ArtifactError: the file does not hold exactly the tensors of such a student.
    """
    config = student_config(teacher.config, blocks)
    check_shapes(path, expected_shapes(config), tied=tied_names(config), found=file_shapes(path))
    transformers_logging.disable_progress_bar()
    reference = next(teacher.parameters())
    student = type(teacher).from_pretrained(None, config=config, state_dict=load_file(path), dtype=reference.dtype)
    student.to(device=reference.device)  # pyright: ignore[reportCallIssue]  (transformers hides the signature)
    return student


def load_published_student(
    folder: Path, teacher: PreTrainedModel, *, dtype: torch.dtype, device: torch.device
) -> tuple[PreTrainedModel, BlockMap]:
    """Load a student in the format of the paper's authors: a checkpoint with `student_config.json` beside it.

    Raises:
        ArtifactError: the file is missing, or the student does not fit the teacher.
    """
    path = folder / PUBLISHED
    raw = read_json(path)
    kept, pruned = (_layer_list(path, raw, field) for field in ("copied_teacher_layers", "pruned_teacher_layers"))
    layers = teacher.config.num_hidden_layers
    if sorted([*kept, *pruned]) != list(range(layers)):
        raise ArtifactError(path, f"copied and pruned layers together are not the teacher's layers 0 to {layers - 1}")
    try:
        blocks = BlockMap(tuple(sorted(kept)), layers)
    except AnysizeError as error:
        raise ArtifactError(path, str(error)) from error
    student = load_model(folder, dtype=dtype, device=device)
    _check_same_family(folder / "config.json", student.config, teacher.config, blocks)
    return student, blocks


def _layer_list(path: Path, raw: dict[str, Any], field: str) -> list[int]:
    value = raw.get(field)
    if not isinstance(value, list) or not all(type(layer) is int for layer in value):
        raise ArtifactError(path, f"needs {field}, a list of layer numbers")
    return value


def _attention_kinds(config: PreTrainedConfig) -> list[str]:
    return getattr(config, "layer_types", None) or []


def _check_same_family(path: Path, student: PreTrainedConfig, teacher: PreTrainedConfig, blocks: BlockMap) -> None:
    if student.num_hidden_layers != blocks.student_layers:
        raise ArtifactError(
            path, f"has {student.num_hidden_layers} layers, but {PUBLISHED} copies {blocks.student_layers}"
        )
    foreign = set(_attention_kinds(student)) - set(_attention_kinds(teacher))
    if foreign:
        raise ArtifactError(path, f"has layers of {foreign.pop()}, which the teacher has not; they are no pair")
    ours, theirs = student.to_dict(), teacher.to_dict()
    for field in sorted(ours.keys() | theirs.keys()):
        if field not in _DEPTH_FIELDS | _COSMETIC_FIELDS and ours.get(field) != theirs.get(field):
            raise ArtifactError(
                path, f"{field} is {ours.get(field)!r}, but the teacher's is {theirs.get(field)!r}; they are no pair"
            )
