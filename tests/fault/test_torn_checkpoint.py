"""A save that is killed at whatever it does to the disk leaves a checkpoint to go on from, and nothing in the way."""

import signal
from pathlib import Path

import pytest
import torch
from forked import in_processes
from torn import save, state_at

from anysize_training.distill.checkpoint import (
    Identity,
    clear_unfinished,
    latest_checkpoint,
    read_progress,
    restore_moments,
    restore_weights,
)

MOST = 400


def is_whole_after(folder: Path, last: int) -> None:
    """The checkpoint of the save, or that before it, to the bit, and at most one folder of another name."""
    assert len([path for path in folder.iterdir() if path.name.startswith(".")]) <= 2 - (last > 3)
    clear_unfinished(folder, "step-")
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    found = latest_checkpoint(folder)
    assert found is not None
    step = read_progress(found, Identity("recipe", "text", "teacher")).step
    assert step in (3, last)
    trained, optimizer = state_at(0)
    restore_weights(found, trained)
    restore_moments(found, trained, optimizer)
    expected, moments = state_at(step)
    assert all(torch.equal(parameter, expected[name]) for name, parameter in trained.items())
    for name, parameter in trained.items():
        ours, theirs = optimizer.state[parameter], moments.state[expected[name]]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key])) for key in ours)


@pytest.mark.fault
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("last", [4, 3], ids=["new", "over an old one"])
def test_killed_at_each_call_that_changes_the_disk_a_save_leaves_a_whole_checkpoint(tmp_path: Path, last: int):
    code, die_at = -signal.SIGKILL, 0
    while code == -signal.SIGKILL and die_at < MOST:
        die_at += 1
        folder = tmp_path / str(die_at)
        code = in_processes(1, save, folder, last, die_at)[0]
        is_whole_after(folder, last)
    assert code == 0
    assert die_at > 20


@pytest.mark.fault
def test_a_save_into_its_place_would_be_seen(tmp_path: Path):
    assert in_processes(1, save, tmp_path / "cut", 4, 0)[0] == 0
    weights = tmp_path / "cut" / "step-00000004" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(Exception, match="damaged"):
        is_whole_after(tmp_path / "cut", 4)
