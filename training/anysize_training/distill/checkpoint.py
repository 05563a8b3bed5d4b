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

from anysize.errors import ArtifactError, SettingsError
from anysize.family.files import new_folder
from anysize.family.pretrained import read_json
from anysize_training.distill.processes import like, whole

_NAME = re.compile(r"step-([0-9]{8})")
_KEPT = 2


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a run this run and no other. Only with all of it the same can it be resumed.

    Attributes:
        recipe: sha256 of all its values.
        text: sha256 of the token ids.
        teacher: fingerprint of the teacher's weights.
    """

    recipe: str
    text: str
    teacher: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        identity: of the run.
        step: optimizer steps done. Rows, learning rate and schedule follow from it, and no step draws a random number.
        tokens: counted tokens seen.
        seconds: time spent training, over all sessions of the run.
    """

    identity: Identity
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


def save_checkpoint(
    folder: Path,
    progress: Progress,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    *,
    is_main: bool,
) -> None:
    """Write `folder/step-N` atomically, then remove all but the newest two.

    Where the run is sharded, all processes give their parts, and the main one writes.
    """
    weights, moments = {}, {}
    for name, parameter in trained.items():
        weights[name] = whole(parameter.detach())
        for key, value in optimizer.state[parameter].items():
            moments[f"{name}|{key}"] = whole(torch.as_tensor(value))
    if not is_main:
        return
    with new_folder(folder / f"step-{progress.step:08d}", replace=True) as building:
        for file, tensors in (("weights", weights), ("optimizer", moments)):
            save_file(
                {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, building / f"{file}.safetensors"
            )
        (building / "progress.json").write_text(json.dumps(asdict(progress), indent=2) + "\n", encoding="utf-8")
    for old in _checkpoints(folder)[:-_KEPT]:
        shutil.rmtree(old)


def clear_unfinished(folder: Path) -> None:
    """Remove what a crash in the middle of a save has left."""
    for left in folder.glob(".step-*"):
        shutil.rmtree(left)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, if there is one. Unfinished ones have another name and are not seen."""
    return next(reversed(_checkpoints(folder)), None)


def read_progress(checkpoint: Path, identity: Identity) -> Progress:
    """How far the run was when the checkpoint was written.

    Raises:
        SettingsError: it belongs to a run with another recipe, text or teacher.
        ArtifactError: it is damaged.
    """
    path = checkpoint / "progress.json"
    values = read_json(path)
    try:
        progress = Progress(Identity(**values.pop("identity")), **values)
    except (TypeError, KeyError) as error:
        raise ArtifactError(path, f"is no progress of a run: {error}") from error
    for part, ours in asdict(identity).items():
        if getattr(progress.identity, part) != ours:
            raise SettingsError(
                f"{checkpoint} was made with another {part}; resume with the one it was begun with (its recipe is "
                f"{checkpoint.parent.parent / 'recipe.json'}), or begin another run"
            )
    return progress


@torch.no_grad()
def restore_weights(checkpoint: Path, trained: Mapping[str, nn.Parameter]) -> None:
    """Put weights back.

    Raises:
        ArtifactError: the checkpoint holds other tensors than the run trains.
    """
    weights = _load(checkpoint / "weights.safetensors")
    if weights.keys() != trained.keys():
        raise ArtifactError(checkpoint, "holds other tensors than this recipe trains")
    for name, parameter in trained.items():
        parameter.copy_(like(weights[name], parameter))


def restore_moments(checkpoint: Path, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Put the optimizer's moments and step counts back."""
    state: dict[nn.Parameter, dict[str, Tensor]] = {parameter: {} for parameter in trained.values()}
    for key, value in _load(checkpoint / "optimizer.safetensors").items():
        name, _, field = key.partition("|")
        if name not in trained:
            raise ArtifactError(checkpoint, f"holds moments of {name!r}, which this recipe does not train")
        parameter = trained[name]
        state[parameter][field] = value.to(parameter.device) if value.dim() == 0 else like(value, parameter)
    for parameter, moments in state.items():
        optimizer.state[parameter] = moments


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(path, f"is damaged: {error}; remove its folder to resume from the one before") from error


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))
