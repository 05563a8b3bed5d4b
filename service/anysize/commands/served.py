"""What a service with some settings would run, loaded late: torch takes seconds that `--help` need not wait for."""

import gc
from typing import TYPE_CHECKING

from anysize.console import say
from anysize.settings import Settings

if TYPE_CHECKING:
    from anysize.engine.kernels.kernels import Kernels
    from anysize.family.family import Family


def served_family(settings: Settings) -> "Family":
    """Its family. See `load_family`."""
    from anysize.commands.serve import load_family

    family = load_family(settings)
    gc.freeze()  # as a service does
    return family


def served_kernels(settings: Settings) -> "Kernels | None":
    """Its compiled kernels, if it has any. See `load_kernels`."""
    from anysize.commands.serve import load_kernels

    return load_kernels(settings, say)
