"""The family that a command works on."""

from pathlib import Path

import torch

from anysize.console import say
from anysize.family.family import Family, builtin_folder
from anysize.settings import resolve_device


def load_family(named: Path) -> tuple[Path, Family]:
    """The folder and the family of a command line; `builtin` names the one that ships.

    Raises:
        ArtifactError: the folder is damaged.
        FetchError: its teacher is not on this machine.
    """
    folder = builtin_folder() if str(named) == "builtin" else named
    say(f"loading {folder.name}")
    return folder, Family.load(folder, dtype=torch.float32, device=resolve_device("auto"))
