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
        recipe: sha256 of the values that decide the outcome.
        text: sha256 of the token ids.
        teacher: fingerprint of the teacher's weights.
        start: sha256 of the student that the run goes on from, where it does.
    """

    recipe: str
    text: str
    teacher: str
    start: str | None = None


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
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for name, parameter in trained.items():
        _gather(weights, name, parameter.detach(), keep=is_main)
        for key, value in optimizer.state[parameter].items():
            _gather(moments, f"{name}|{key}", torch.as_tensor(value), keep=is_main)
    if not is_main:
        return
    with new_folder(folder / f"step-{progress.step:08d}", replace=True) as building:
        save_file(weights, building / "weights.safetensors")
        save_file(moments, building / "optimizer.safetensors")
        (building / "progress.json").write_text(json.dumps(asdict(progress), indent=2) + "\n", encoding="utf-8")
    for old in _checkpoints(folder)[:-_KEPT]:
        shutil.rmtree(old)


def clear_unfinished(folder: Path, name: str) -> None:
    """Put right what a crash has left in the middle of writing folders whose names begin with `name`."""
    for left in folder.glob(f".{name}*"):
        # What a save has moved aside is whole, and the newest there is if its heir never took its name.
        target = folder / left.name.split(".")[1]
        if left.suffix == ".old" and not target.exists():
            left.rename(target)
        else:
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


def _gather(tensors: dict[str, Tensor], name: str, part: Tensor, *, keep: bool) -> None:
    """Put one whole tensor on the CPU before the next is asked for: all of them together fit on no device."""
    tensor = whole(part)
    if keep:
        tensors[name] = tensor.cpu().contiguous()


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(path, f"is damaged: {error}; remove its folder to resume from the one before") from error


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))
