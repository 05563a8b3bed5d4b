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
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import logging as transformers_logging

from anysize.errors import ArtifactError
from anysize.family.architectures import ARCHITECTURES, architecture_of, leftover

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_MAX_JSON_BYTES = 64 << 20
_MAX_LAYERS = 1024
_FLOATS = {"F32", "BF16", "F16"}
_REMOTE_CODE_MARKERS = ("auto_map", "custom_pipelines", "trust_remote_code")
# Fields that make transformers read another file than the one that was checked.
_REDIRECTS = ("transformers_weights", "configuration_files")
_ATTENTION = ("attn_implementation", "_attn_implementation")

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
    if (folder / _ADAPTER).exists():
        raise ArtifactError(folder / _ADAPTER, "is of an adapter, which makes transformers load another model")
    found = checkpoint_shapes(folder, config)
    try:
        expected = expected_shapes(config)
    except Exception as error:
        raise ArtifactError(folder / "config.json", f"describes no model that can be built: {error}") from error
    check_shapes(folder, expected, tied=tied_names(config), found=found)
    transformers_logging.disable_progress_bar()
    try:
        # B615 asks for a revision of a hub model; this is a folder, and nothing is fetched (2026-11-24).
        model = AutoModelForCausalLM.from_pretrained(  # nosec B615
            folder, config=config, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(folder, f"cannot be loaded: {error}") from error
    model.to(device=device)  # pyright: ignore[reportCallIssue]  (transformers hides the signature)
    return model.eval()


def load_config(folder: Path) -> PreTrainedConfig:
    """Read and check `config.json` of a checkpoint folder."""
    path = folder / "config.json"
    raw = read_json(path)
    refuse_remote_code(path, raw)
    if raw.get("quantization_config") is not None:
        raise ArtifactError(path, "quantized checkpoints are not supported; convert it to plain weights first")
    for field in _REDIRECTS:
        if field in raw:
            raise ArtifactError(path, f"holds {field!r}, which leads to files that were not checked")
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        supported = ", ".join(sorted(ARCHITECTURES))
        raise ArtifactError(path, f"model type {model_type!r} is not supported; supported are {supported}")
    try:
        config = CONFIG_MAPPING[model_type].from_dict(raw)
    except Exception as error:
        raise ArtifactError(path, f"is no config that transformers can read: {error}") from error
    architecture_of(config, str(path))
    if not 1 <= config.num_hidden_layers <= _MAX_LAYERS:
        raise ArtifactError(path, f"has {config.num_hidden_layers} layers; models have 1 to {_MAX_LAYERS}")
    return config


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a checkpoint or family folder."""
    for name in ("tokenizer_config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ArtifactError(folder / name, "is missing; a tokenizer is needed to serve text")
    refuse_remote_code(folder / "tokenizer_config.json", read_json(folder / "tokenizer_config.json"))
    try:
        return AutoTokenizer.from_pretrained(  # nosec B615
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise ArtifactError(folder, f"its tokenizer cannot be loaded: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of bounded size.

    Raises:
        ArtifactError: the file is missing, too large, or holds no JSON object.
    """
    try:
        size = path.stat().st_size
        # A pipe or a device could be read forever.
        if not path.is_file():
            raise ArtifactError(path, "is no ordinary file")
        if size > _MAX_JSON_BYTES:
            raise ArtifactError(path, f"is larger than {_MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        raise ArtifactError(path, "is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(path, f"holds no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(path, "holds no JSON object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def refuse_remote_code(path: Path, value: Any) -> None:
    """Refuse a config that names code of its own, at any depth.

    An attention implementation with a slash is a kernel that transformers would download and run.
    """
    if isinstance(value, dict):
        asked = [marker for marker in _REMOTE_CODE_MARKERS if marker in value]
        asked += [name for name in _ATTENTION if "/" in str(value.get(name))]
        if asked:
            raise ArtifactError(path, f"holds {asked[0]!r}: it asks to run code of its own, which is never done")
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


def checkpoint_shapes(folder: Path, config: PreTrainedConfig) -> Shapes:
    """Shape of every tensor in a checkpoint folder, from the headers alone, by what the model calls it."""
    shapes: Shapes = {}
    for path in weight_files(folder):
        shapes.update(file_shapes(path))
    names = architecture_of(config, str(folder)).names_by_stored(shapes)
    return {name: shapes[stored] for stored, name in names.items()}


def checkpoint_fingerprint(folder: Path) -> str:
    """The sha256 of a checkpoint's tensors by name, type, shape and bytes, however they are spread over files."""
    where: dict[str, Path] = {}
    for path in weight_files(folder):
        where.update(dict.fromkeys(file_shapes(path), path))
    digest = hashlib.sha256()
    for name in sorted(where):
        with safe_open(where[name], framework="pt") as file:
            _digest_tensor(digest, name, file.get_tensor(name))
    return digest.hexdigest()


def _digest_tensor(digest: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, those that transformers reads: one file goes before an index.

    Raises:
        ArtifactError: the index names a file outside the folder.
    """
    index = folder / _INDEX
    if (folder / _WEIGHTS).is_file() or not index.is_file():
        return [folder / _WEIGHTS]
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ArtifactError(index, "has no weight_map")
    shards: set[str] = set()
    for shard in weight_map.values():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ArtifactError(index, f"names a shard that is no safetensors file beside it: {shard!r}")
        shards.add(shard)
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
            dtypes = {name: part.get_dtype() for name, part in slices.items() if not leftover(name)}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(path, f"is no intact safetensors file: {error}") from error
    for name, dtype in dtypes.items():
        if dtype not in _FLOATS:
            raise ArtifactError(path, f"tensor {name!r} is {dtype}; weights are one of {', '.join(sorted(_FLOATS))}")
    return shapes


def check_shapes(where: Path, expected: Shapes, *, tied: frozenset[str], found: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors that are missing, unexpected or of the wrong shape."""
    for name in sorted(expected.keys() - found.keys() - tied):
        raise ArtifactError(where, f"tensor {name!r} is missing")
    for name in sorted(found.keys() - expected.keys()):
        raise ArtifactError(where, f"tensor {name!r} belongs to no part of the model")
    for name, shape in found.items():
        if name in expected and shape != expected[name]:
            raise ArtifactError(where, f"tensor {name!r} has shape {list(shape)}, not {list(expected[name])}")
