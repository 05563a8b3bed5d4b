"""A distillation that kills itself with SIGKILL at a chosen place, for tests that resume it."""

import os
import signal
from pathlib import Path
from typing import Any, Literal

Place = Literal["step", "weights", "moments", "rename", "cleanup", "journal"]
PLACES: tuple[Place, ...] = ("step", "weights", "moments", "rename", "cleanup", "journal")


def distil(out: Path, overrides: list[str], place: Place | None, count: int) -> None:
    """Run or resume the tiny recipe in this process.

    Args:
        out: of the run.
        overrides: as for `--set`.
        place: where to die: at the end of a step's backward pass, in a save behind its first or second file, before its
            folder takes its name, after that and before old ones are removed, or in the middle of a journal's line.
            None lives.
        count: die there the n-th time.
    """
    if place is not None:
        _arm(place, count)
    from anysize_training.commands.distill import run_distillation

    run_distillation("tiny", out, overrides, resume=True)


def _arm(place: Place, count: int) -> None:
    from anysize_training.distill import checkpoint, journal, step

    left = [count]

    def die_at_zero() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(owner: Any, name: str, *, after: bool) -> None:
        original = getattr(owner, name)

        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if not after:
                die_at_zero()
            result = original(*arguments, **keywords)
            if after:
                die_at_zero()
            return result

        setattr(owner, name, wrapped)

    if place == "step":
        wrap(step.TrainStep, "run", after=True)
    elif place in ("weights", "moments"):
        left[0] = 2 * count - (place == "weights")
        wrap(checkpoint, "save_file", after=True)
    elif place in ("rename", "cleanup"):
        import anysize.family.files as files

        wrap(files, "_put", after=place == "cleanup")
    else:
        _die_in_a_line(journal.Journal, die_at_zero)


def _die_in_a_line(owner: Any, die_at_zero: Any) -> None:
    original = owner._write

    def wrapped(self: Any, name: str, number: int, values: Any) -> None:
        self._files[name].write('{"step": ')
        self._files[name].flush()
        die_at_zero()
        self._files[name].seek(self._files[name].tell() - len('{"step": '))
        self._files[name].truncate()
        original(self, name, number, values)

    owner._write = wrapped
