"""How both command lines talk to people: one line for an error and exit code 2, progress on standard error."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from anysize.errors import AnysizeError

terminal = Console()
_err = Console(stderr=True)


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Turn the errors that a user can cause into one line and exit code 2."""
    try:
        yield
    except AnysizeError as error:
        _err.print(Text.assemble(("error: ", "red"), " ".join(str(error).split())), soft_wrap=True)
        raise typer.Exit(2) from error


def say(line: str) -> None:
    """One line about what is being done."""
    _err.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[float], None]]:
    """A bar on standard error; yields what moves it, to a share from 0 to 1."""
    with Progress(console=_err, transient=True) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda share: progress.update(task, completed=share)


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    sys.stdout.write(json.dumps(value) + "\n")
