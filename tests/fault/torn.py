"""A process that saves checkpoints and kills itself with SIGKILL at the n-th thing that it does to the disk."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

_STEPS = 4
# Audit events by which Python tells of them; each is told before it happens.
_EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.chmod", "os.remove", "os.rmdir", "shutil.rmtree"})


def state_at(step: int) -> "tuple[dict[str, torch.nn.Parameter], torch.optim.Optimizer]":
    """What is trained, after so many steps."""
    trained = {"a.weight": torch.nn.Parameter(torch.ones(40, 40)), "b.weight": torch.nn.Parameter(torch.ones(3))}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.1)
    for _ in range(step):
        for parameter in trained.values():
            parameter.grad = parameter.detach() + 1
        optimizer.step()
    return trained, optimizer


def save(folder: Path, last: int, die_at: int) -> None:
    """Save steps 1 to 3 in peace, and then one more, dying in it.

    Args:
        folder: of the checkpoints.
        last: the step that is saved at the end; 3 is saved over.
        die_at: which of the things that are done to the disk is the last, counted from 1; 0 none.
    """
    from anysize_training.distill import checkpoint

    progress = checkpoint.Progress(checkpoint.Identity("recipe", "text", "teacher"))
    for step in (1, 2, 3, last):
        if step == last and folder.joinpath("step-00000003").exists():
            _arm(folder, die_at)
        checkpoint.save_checkpoint(
            folder, checkpoint.Progress(progress.identity, step=step), *state_at(step), is_main=True
        )


def _arm(folder: Path, die_at: int) -> None:
    from anysize_training.distill import checkpoint

    left = [die_at]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def audited(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _EVENTS and str(folder) in str(arguments[0]):
            count()

    fsync, save_file, write_text = os.fsync, checkpoint.save_file, Path.write_text

    def synced(descriptor: int) -> None:
        count()
        fsync(descriptor)
        count()

    def torn(path: Path) -> None:
        """The file is there in part, and then whole."""
        whole = path.read_bytes()
        for length in (0, len(whole) // 2, len(whole)):
            path.write_bytes(whole[:length])
            count()

    def saved(tensors: Any, path: Path) -> None:
        save_file(tensors, path)
        torn(path)

    def written(path: Path, *arguments: Any, **keywords: Any) -> int:
        length = write_text(path, *arguments, **keywords)
        torn(path)
        return length

    os.fsync, checkpoint.save_file, Path.write_text = synced, saved, written  # pyright: ignore[reportAttributeAccessIssue]
    sys.addaudithook(audited)
