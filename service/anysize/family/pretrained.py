"""Reading and writing ordinary Hugging Face checkpoints, as strictly as strangers' files deserve.

Only safetensors and JSON are read, no code that comes with a checkpoint is run, and a checkpoint that does not fit its
own config is refused before a weight is loaded.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import logging as transformers_logging

from anysize.errors import ArtifactError
from anysize.family.architectures import architecture_of

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MAX_JSON_BYTES = 64 << 20
_FLOATS = {"F32", "BF16", "F16"}
_REMOTE_CODE_MARKERS = ("auto_map", "custom_pipelines", "trust_remote_code")

Shapes = dict[str, tuple[int, ...]]


def load_model(folder: Path, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Load a causal LM from a local checkpoint folder.

    Args:
        folder: holds `config.json` and `model.safetensors`, or an index and its shards.
        dtype: of the weights in memory.
        device: where they go.

    Raises:
        ArtifactError: a file is missing, damaged, asks for code of its own, or does not fit the config.
    """
    config = load_config(folder)
    check_shapes(folder, expected_shapes(config), tied=tied_names(config), found=checkpoint_shapes(folder))
    transformers_logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(folder, f"cannot be loaded: {error}") from error
    return model.to(device).eval()


def load_config(folder: Path) -> PreTrainedConfig:
    """Read and check `config.json` of a checkpoint folder."""
    path = folder / "config.json"
    raw = read_json(path)
    refuse_remote_code(path, raw)
    if raw.get("quantization_config") is not None:
        raise ArtifactError(path, "quantized checkpoints are not supported; convert it to plain weights first")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ArtifactError(path, f"is no config that transformers can read: {error}") from error
    architecture_of(config, str(path))
    return config


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a checkpoint or family folder."""
    for name in ("tokenizer_config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ArtifactError(folder / name, "is missing; a tokenizer is needed to serve text")
    refuse_remote_code(folder / "tokenizer_config.json", read_json(folder / "tokenizer_config.json"))
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ArtifactError(folder, f"its tokenizer cannot be loaded: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of bounded size.

    Raises:
        ArtifactError: the file is missing, too large, or holds no JSON object.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ArtifactError(path, f"is larger than {_MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(path, "is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(path, f"holds no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(path, "holds no JSON object")
    return value


def refuse_remote_code(path: Path, value: Any) -> None:
    """Refuse a config that names code of its own, at any depth."""
    if isinstance(value, dict):
        for marker in _REMOTE_CODE_MARKERS:
            if marker in value:
                raise ArtifactError(path, f"holds {marker!r}: it asks to run code of its own, which is never done")
        for inner in value.values():
            refuse_remote_code(path, inner)
    elif isinstance(value, list):
        for inner in value:
            refuse_remote_code(path, inner)


def expected_shapes(config: PreTrainedConfig) -> Shapes:
    """Name and shape of every tensor that a model of this config has; no weights are allocated."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def tied_names(config: PreTrainedConfig) -> frozenset[str]:
    """Names that a checkpoint may leave out because they are tied to another."""
    return frozenset({"lm_head.weight"}) if config.tie_word_embeddings else frozenset()


def checkpoint_shapes(folder: Path) -> Shapes:
    """Name and shape of every tensor in a checkpoint folder, from the headers alone."""
    shapes: Shapes = {}
    for path in weight_files(folder):
        shapes.update(file_shapes(path))
    return shapes


def checkpoint_fingerprint(folder: Path) -> str:
    """The sha256 of a checkpoint's tensors by name, type, shape and bytes, however they are spread over files."""
    where: dict[str, Path] = {}
    for path in weight_files(folder):
        where.update(dict.fromkeys(file_shapes(path), path))
    digest = hashlib.sha256()
    for name in sorted(where):
        with safe_open(where[name], framework="pt") as file:
            digest_tensor(digest, name, file.get_tensor(name))
    return digest.hexdigest()


def digest_tensor(digest: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    """Add one tensor to a fingerprint."""
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder.

    Raises:
        ArtifactError: the index names a file outside the folder.
    """
    index = folder / _INDEX
    if not index.is_file():
        return [folder / _WEIGHTS]
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ArtifactError(index, "has no weight_map")
    shards = set(weight_map.values())
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise ArtifactError(index, f"names a shard outside its folder: {shard!r}")
    return [folder / shard for shard in sorted(shards)]


def file_shapes(path: Path) -> Shapes:
    """Name and shape of every tensor in a safetensors file, from its header.

    Raises:
        ArtifactError: the file is missing, damaged, or holds tensors that are not floating point.
    """
    if not path.is_file():
        raise ArtifactError(path, "is missing")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            odd = {name: part.get_dtype() for name, part in slices.items() if part.get_dtype() not in _FLOATS}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(path, f"is no intact safetensors file: {error}") from error
    for name, dtype in odd.items():
        raise ArtifactError(path, f"tensor {name!r} is {dtype}; weights are one of {', '.join(sorted(_FLOATS))}")
    return shapes


def check_shapes(where: Path, expected: Shapes, *, tied: frozenset[str], found: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors that are missing, unexpected or of the wrong shape."""
    for name in sorted(expected.keys() - found.keys() - tied):
        raise ArtifactError(where, f"tensor {name!r} is missing")
    for name in sorted(found.keys() - expected.keys()):
        if not name.endswith((".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")):
            raise ArtifactError(where, f"tensor {name!r} belongs to no part of the model")
    for name, shape in found.items():
        if name in expected and shape != expected[name]:
            raise ArtifactError(where, f"tensor {name!r} has shape {list(shape)}, not {list(expected[name])}")
