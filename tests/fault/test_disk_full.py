"""A disk that is full in the middle of a save costs that save, and no checkpoint before it."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from anysize.family import files
from anysize_training.distill import checkpoint
from anysize_training.distill.checkpoint import (
    Identity,
    Progress,
    latest_checkpoint,
    read_progress,
    restore_moments,
    restore_weights,
    save_checkpoint,
)

IDENTITY = Identity("recipe", "text", "teacher")
# Files, their contents and folders reach the disk by these, in this order and this often in one save.
WRITES = [(checkpoint, "save_file", 2), (Path, "write_text", 1), (os, "fsync", 4), (files, "_put", 1)]


def stepped() -> tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]:
    trained = {"a.weight": torch.nn.Parameter(torch.ones(4, 4)), "b.weight": torch.nn.Parameter(torch.ones(3))}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.1)
    step(trained, optimizer)
    return trained, optimizer


def step(trained: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    for parameter in trained.values():
        parameter.grad = parameter.detach() + 1
    optimizer.step()


@pytest.mark.parametrize(
    ("owner", "name", "place"), [(owner, name, place) for owner, name, times in WRITES for place in range(times)]
)
def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, place: int
):
    trained, optimizer = stepped()
    save_checkpoint(tmp_path, Progress(IDENTITY, step=1), trained, optimizer, is_main=True)
    weights = {key: parameter.detach().clone() for key, parameter in trained.items()}
    step(trained, optimizer)
    original, calls = getattr(owner, name), 0

    def full(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > place:
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))
        return original(*arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, full)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, Progress(IDENTITY, step=2), trained, optimizer, is_main=True)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found == tmp_path / "step-00000001"
    assert list(tmp_path.iterdir()) == [found]
    assert read_progress(found, IDENTITY).step == 1
    restore_weights(found, trained)
    restore_moments(found, trained, optimizer)
    assert all(torch.equal(parameter, weights[key]) for key, parameter in trained.items())
    save_checkpoint(tmp_path, Progress(IDENTITY, step=2), trained, optimizer, is_main=True)
    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000002"
