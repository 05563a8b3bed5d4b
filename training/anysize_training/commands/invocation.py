"""The command line itself, as model cards quote it."""

import shlex
import sys
from pathlib import Path


def command_line() -> str:
    """The command line of this process, without folders of this machine."""
    return shlex.join(["anysize-train", *map(_without_folder, sys.argv[1:])])


def _without_folder(word: str) -> str:
    name, equals, value = word.rpartition("=")
    return f"{name}{equals}{Path(value).name}" if Path(value).is_absolute() else word
