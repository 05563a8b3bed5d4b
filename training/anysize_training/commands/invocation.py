"""The command line itself, as model cards quote it."""

import shlex
import sys
from pathlib import Path


def command_line() -> str:
    """The command line of this process, without folders of this machine."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["anysize-train", *words])
