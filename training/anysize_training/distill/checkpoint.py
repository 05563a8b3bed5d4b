"""Checkpoints of a run: safetensors and JSON in a folder that is either whole or not there."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anysize.errors import ArtifactError
from anysize.family.files import new_folder
from anysize.family.pretrained import read_json

_NAME = re.compile(r"step-([0-9]{8})")
_KEPT = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        step: optimizer steps done; the next batch follows from it.
        tokens: tokens seen.
        seconds: time spent training, over all sessions of the run.
        recipe_sha256: of the recipe, so that a run is only ever resumed with its own.
    """

    step: int
    tokens: int
    seconds: float
    recipe_sha256: str


def save_checkpoint(
    folder: Path, progress: Progress, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> Path:
    """Write `folder/step-N` atomically, then remove all but the newest two."""
    target = folder / f"step-{progress.step:08d}"
    moments = {
        f"{name}|{key}": torch.as_tensor(value)
        for name, parameter in trained.items()
        for key, value in optimizer.state[parameter].items()
    }
    with new_folder(target, replace=True) as building:
        save_file(
            {name: parameter.detach().contiguous() for name, parameter in trained.items()},
            building / "weights.safetensors",
        )
        save_file(moments, building / "optimizer.safetensors")
        (building / "progress.json").write_text(json.dumps(asdict(progress), indent=2) + "\n", encoding="utf-8")
    for old in _checkpoints(folder)[:-_KEPT]:
        shutil.rmtree(old)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, if there is one. Unfinished ones have another name and are not seen."""
    return next(reversed(_checkpoints(folder)), None)


def read_progress(checkpoint: Path) -> Progress:
    """How far the run was when the checkpoint was written."""
    path = checkpoint / "progress.json"
    try:
        return Progress(**read_json(path))
    except TypeError as error:
        raise ArtifactError(path, f"is no progress of a run: {error}") from error


@torch.no_grad()
def restore_checkpoint(checkpoint: Path, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Put weights and optimizer moments back.

    Raises:
        ArtifactError: the checkpoint holds other tensors than the run trains.
    """
    weights, moments = (_load(checkpoint / f"{name}.safetensors") for name in ("weights", "optimizer"))
    if weights.keys() != trained.keys():
        raise ArtifactError(checkpoint, "holds other tensors than this recipe trains")
    state: dict[nn.Parameter, dict[str, Tensor]] = {parameter: {} for parameter in trained.values()}
    for name, parameter in trained.items():
        parameter.copy_(weights[name])
    for key, value in moments.items():
        name, _, field = key.partition("|")
        state[trained[name]][field] = value if value.dim() == 0 else value.to(trained[name].device)
    for parameter, moments_of in state.items():
        optimizer.state[parameter] = moments_of


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(path, f"is damaged: {error}; remove its folder to resume from the one before") from error


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))
