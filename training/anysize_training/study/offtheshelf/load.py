"""Finding and loading a teacher and a student that others published, and checking that they are a pair."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import (
    BertForMaskedLM,
    DistilBertForMaskedLM,
    PreTrainedConfig,
    ViTForImageClassification,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.utils import logging as transformers_logging

from anysize.errors import AnysizeError, ArtifactError, FetchError, SettingsError
from anysize.family.architectures import ARCHITECTURES, architecture_of
from anysize.family.bank import Bank
from anysize.family.blocks import BlockMap
from anysize.family.fetch import Say, hub_teacher
from anysize.family.files import sha256_of
from anysize.family.pretrained import (
    checkpoint_fingerprint,
    load_model,
    load_tokenizer,
    read_json,
    refuse_remote_code,
    weight_files,
)
from anysize.family.variant import Owner
from anysize_training.study.offtheshelf.causal import CausalPair
from anysize_training.study.offtheshelf.masked import MaskedPair, as_bert
from anysize_training.study.offtheshelf.pair import Pair
from anysize_training.study.offtheshelf.seams import Side, fit_seams
from anysize_training.study.offtheshelf.stitched import StitchedPair
from anysize_training.study.offtheshelf.vision import VisionPair
from anysize_training.study.texts import Text

_MASKED = {"bert": BertForMaskedLM, "distilbert": DistilBertForMaskedLM}
# What layers of teacher and student must have in common to stand in one stack.
_SHARED = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "activation_function",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "rms_norm_eps",
    "max_position_embeddings",
    "rope_parameters",
    "rotary_pct",
    "use_parallel_residual",
    "position_embedding_type",
)
_SHARED_BY_CLASSIFIERS = (*_SHARED, "image_size", "patch_size", "num_channels", "id2label")
_Model = TypeVar("_Model", BertForMaskedLM, DistilBertForMaskedLM, ViTForImageClassification)
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


def load_pair(
    teacher: str, student: str, kept: Sequence[int], *, device: torch.device, say: Say, fit: Text | None = None
) -> Pair:
    """Load both, in float32.

    Args:
        teacher: a checkpoint folder, or a model's name on the Hugging Face hub.
        student: likewise.
        kept: the teacher layers, from 0, that the student's were copied from.
        device: where they go.
        say: told in one line what is being done.
        fit: a text to fit linear maps on, between causal models whose layers do not fit each other.

    Raises:
        FetchError: one is not on this machine, and cannot be downloaded.
        ArtifactError: one is damaged or of no supported kind, or they are no pair.
        SettingsError: the kept layers do not fit them.
    """
    folders = _folder("teacher", teacher, say), _folder("student", student, say)
    kinds = [_model_type(folder) for folder in folders]
    names = [_name(named) for named in (student, teacher)]
    say(f"loading {names[1]} and {names[0]}")
    if fit is not None:
        if any(kind in _MASKED for kind in kinds):
            raise SettingsError("--fit-text is for causal language models; BERT and DistilBERT are of one width")
        return _stitched_pair(*folders, kept, device, " and ".join(names), fit)
    load = _masked_pair if kinds[0] in _MASKED else _causal_pair
    return load(*folders, kept, device, " and ".join(names))


def load_vision_pair(teacher: str, student: str, kept: Sequence[int], *, device: torch.device, say: Say) -> VisionPair:
    """Load two ViT image classifiers, in float32. See `load_pair`."""
    folders = _folder("teacher", teacher, say), _folder("student", student, say)
    for folder in folders:
        if read_json(folder / "config.json").get("model_type") != "vit":
            raise ArtifactError(folder / "config.json", "is of no ViT; `patch` is for language models")
    name = " and ".join(_name(named) for named in (student, teacher))
    say(f"loading {name}")
    larger, smaller = (_loaded(ViTForImageClassification, folder, device) for folder in folders)
    blocks = _blocks(kept, larger.config, smaller.config)
    _check_pair(folders[1], larger.config, smaller.config, _SHARED_BY_CLASSIFIERS)
    try:
        processor = ViTImageProcessorPil.from_pretrained(folders[0], local_files_only=True)  # nosec B615
    except (OSError, ValueError) as error:
        raise ArtifactError(folders[0] / "preprocessor_config.json", f"cannot be read: {error}") from error
    return VisionPair(name, larger, smaller, blocks, processor, _fingerprint([_hashes(one) for one in folders], blocks))


def _causal_pair(teacher: Path, student: Path, kept: Sequence[int], device: torch.device, name: str) -> Pair:
    larger, smaller = (load_model(folder, dtype=torch.float32, device=device) for folder in (teacher, student))
    if larger.config.model_type != smaller.config.model_type:
        raise ArtifactError(student, f"is a {smaller.config.model_type}, the teacher a {larger.config.model_type}")
    blocks = _blocks(kept, larger.config, smaller.config)
    _check_pair(student, larger.config, smaller.config)
    bank = Bank(architecture_of(larger.config, str(teacher)), blocks, larger, smaller)
    prints = [checkpoint_fingerprint(folder) for folder in (teacher, student)]
    return CausalPair(name, bank, load_tokenizer(teacher), _fingerprint(prints, blocks))


def _stitched_pair(
    teacher: Path, student: Path, kept: Sequence[int], device: torch.device, name: str, fit: Text
) -> Pair:
    folders = {Owner.TEACHER: teacher, Owner.STUDENT: student}
    sides: dict[Owner, Side] = {}
    for owner, folder in folders.items():
        model = load_model(folder, dtype=torch.float32, device=device)
        sides[owner] = Side(architecture_of(model.config, str(folder)), model.eval().requires_grad_(False))
    larger, smaller = (sides[owner].model for owner in folders)
    blocks = _blocks(kept, larger.config, smaller.config)
    tokenizer, other = load_tokenizer(teacher), load_tokenizer(student)
    windows = fit.windows(tokenizer)
    same_words = tokenizer.get_vocab() == other.get_vocab()
    if not same_words or windows.tokens_sha256 != fit.windows(other).tokens_sha256:
        raise ArtifactError(student, "has another tokenizer than the teacher: no map leads from token to token")
    tokens_NL = windows.tokens_NL.to(device)
    seams = fit_seams(sides[Owner.TEACHER], sides[Owner.STUDENT], blocks, tokens_NL)
    prints = _fingerprint([checkpoint_fingerprint(folder) for folder in folders.values()], blocks)
    prints["fitted_on"] = windows.tokens_sha256
    return StitchedPair(name, sides, blocks, seams, tokenizer, prints)


def _masked_pair(teacher: Path, student: Path, kept: Sequence[int], device: torch.device, name: str) -> Pair:
    larger, smaller = _load_masked(teacher, device), _load_masked(student, device)
    blocks = _blocks(kept, larger.config, smaller.config)
    _check_pair(student, larger.config, smaller.config)
    prints = _fingerprint([_hashes(folder) for folder in (teacher, student)], blocks)
    return MaskedPair(name, larger, smaller, blocks, load_tokenizer(teacher), prints)


def _load_masked(folder: Path, device: torch.device) -> BertForMaskedLM:
    kind = _MASKED.get(_model_type(folder))
    if kind is None:
        raise ArtifactError(folder / "config.json", "is of no BERT or DistilBERT, as the teacher is")
    model = _loaded(kind, folder, device)
    return as_bert(model) if isinstance(model, DistilBertForMaskedLM) else model


def _loaded(kind: type[_Model], folder: Path, device: torch.device) -> _Model:
    """A checkpoint that has all that its kind needs; what else it has is left out."""
    for path in weight_files(folder):
        if not path.is_file():
            raise ArtifactError(path, "is missing: weights must be safetensors")
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it lists the pooler, which masked models leave out
    try:
        loaded: Any = kind.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(folder, f"cannot be loaded: {error}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    model, found = loaded
    if found["missing_keys"]:
        raise ArtifactError(folder, f"is no whole {kind.__name__}: {min(found['missing_keys'])!r} is missing")
    return model.to(device=device).eval().requires_grad_(False)


def _folder(role: str, named: str, say: Say) -> Path:
    folder = Path(named).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(named):
        raise FetchError(f"the {role} {named!r} is no folder, and no name on the hub such as openai-community/gpt2")
    say(f"there is no folder {named}; bringing it from the Hugging Face hub unless it is here already")
    return hub_teacher(named, None, download=True)


def _model_type(folder: Path) -> str:
    path = folder / "config.json"
    raw = read_json(path)
    refuse_remote_code(path, raw)
    kind = raw.get("model_type")
    if kind not in ARCHITECTURES and kind not in _MASKED:
        supported = ", ".join(sorted([*ARCHITECTURES, *_MASKED]))
        raise ArtifactError(path, f"model type {kind!r} is not supported; supported are {supported}")
    return kind


def _blocks(kept: Sequence[int], teacher: PreTrainedConfig, student: PreTrainedConfig) -> BlockMap:
    try:
        blocks = BlockMap(tuple(kept), teacher.num_hidden_layers)
    except AnysizeError as error:
        raise SettingsError(f"--kept {','.join(map(str, kept))}: {error}") from error
    if blocks.student_layers != student.num_hidden_layers:
        raise SettingsError(
            f"--kept names {blocks.student_layers} layers, but the student has {student.num_hidden_layers}; name the "
            "teacher layer that each of its layers was copied from"
        )
    return blocks


def _check_pair(
    where: Path, teacher: PreTrainedConfig, student: PreTrainedConfig, shared: Sequence[str] = _SHARED
) -> None:
    for field in shared:
        ours: Any = getattr(student, field, None)
        theirs: Any = getattr(teacher, field, None)
        if ours != theirs:
            raise ArtifactError(
                where,
                f"has {field} {ours!r}, but the teacher {theirs!r}: they are no pair; causal models of other widths or "
                "heads go together with --fit-text",
            )


def _fingerprint(prints: Sequence[str], blocks: BlockMap) -> dict[str, str]:
    return {"teacher": prints[0], "student": prints[1], "kept": ",".join(map(str, blocks.kept))}


def _hashes(folder: Path) -> str:
    return "-".join(sha256_of(path) for path in weight_files(folder))


def _name(named: str) -> str:
    folder = Path(named).expanduser()
    return folder.resolve().name if folder.is_dir() else named.rpartition("/")[2]
