"""From settings to a running server."""

import logging
from collections.abc import Callable

import torch
import uvicorn

from anysize.api.app import create_app
from anysize.family.family import Family
from anysize.settings import Settings


def load_family(settings: Settings) -> Family:
    """Load the family that the settings name, the built-in one by default.

    Raises:
        ArtifactError: its folder is damaged.
        FetchError: its teacher is not on this machine.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device, dtype = settings.torch_device(), settings.torch_dtype()
    if settings.family is None:
        return Family.builtin(dtype=dtype, device=device)
    return Family.load(settings.family, dtype=dtype, device=device)


def run_server(settings: Settings, *, say: Callable[[str], None]) -> None:
    """Load a family and serve it until SIGTERM or SIGINT.

    Args:
        settings: of the service.
        say: told in one line what is being done.
    """
    say("checking and loading the weights")
    family = load_family(settings)
    smallest, largest = family.ladder[0], family.ladder[-1]
    say(
        f"{family.name}: {len(family.ladder)} sizes from {smallest.footprint.parameters / 1e6:.1f} M to "
        f"{largest.footprint.parameters / 1e6:.1f} M parameters on {settings.torch_device()}"
    )
    say(f"serving on http://{settings.host}:{settings.port} (GET /variants lists the sizes, /docs describes the API)")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvicorn.run(
        create_app(settings, family),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        # The engine drains itself when the app stops; this bounds connections that are still open by then.
        timeout_graceful_shutdown=int(settings.drain_s) + 1,
        server_header=False,
    )
