"""What a run writes down while it goes: JSON lines, and the same figures for TensorBoard."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

STEPS, EVALUATIONS = "log.jsonl", "evaluations.jsonl"


class Journal:
    """Appends to `log.jsonl`, `evaluations.jsonl` and `tensorboard/` in a run's folder.

    Lines of steps that will be run again are dropped, so that a resumed run reads like one that was never cut.

    Args:
        folder: of the run.
        from_step: the first step that will be written.
    """

    def __init__(self, folder: Path, *, from_step: int) -> None:
        self._files = {}
        for name in (STEPS, EVALUATIONS):
            kept = [line for line in read_journal(folder / name) if line["step"] < from_step]
            # Through another file, since a crash in the middle would lose what was kept.
            rewritten = folder / f".{name}.partial"
            rewritten.write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")
            rewritten.replace(folder / name)
            self._files[name] = (folder / name).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=from_step)

    def flush(self) -> None:
        """Bring all lines to the disk, so that no checkpoint outlives the lines of its steps."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Write down what is left."""
        for file in self._files.values():
            file.close()
        self._board.close()

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Write down one optimizer step."""
        self._write(STEPS, step, values)

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """Write down one evaluation; `step` is the last one before it."""
        self._write(EVALUATIONS, step, values)

    def _write(self, name: str, step: int, values: Mapping[str, Any]) -> None:
        file = self._files[name]
        file.write(json.dumps({"step": step, **values}) + "\n")
        file.flush()
        for key, value in _flat(values):
            self._board.add_scalar(f"{name.removesuffix('.jsonl')}/{key}", value, step)


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal; one that was cut off by a crash is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _flat(values: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, list):
            yield from ((f"{key}/{place}", part) for place, part in enumerate(value, start=1))
        elif value is not None:
            yield key, value
