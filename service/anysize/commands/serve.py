"""From settings to a running server."""

import asyncio
import gc
import math
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import torch
import uvicorn
from fastapi import FastAPI

from anysize import console
from anysize.api.app import create_app
from anysize.api.connection import connections
from anysize.commands.logs import announcer
from anysize.commands.metrics_port import metrics_apart
from anysize.engine.engine import Engine
from anysize.engine.kernels.kernels import Kernels
from anysize.engine.memory import default_kv_bytes
from anysize.engine.model import Model
from anysize.errors import CalibrationError, SettingsError
from anysize.family.family import Family, builtin_folder
from anysize.family.pair import Pair
from anysize.settings import Settings
from anysize.sizing.calibration import Calibration, Key, read_calibration

_MAX_HEAD_BYTES = 64 << 10


def load_family(settings: Settings, say: Callable[[str], None] = console.say) -> Family:
    """Load the family that the settings name, the built-in one by default.

    Args:
        settings: of the service.
        say: told in one line what is being done.

    Raises:
        ArtifactError: its folder is damaged.
        FetchError: its teacher is not on this machine.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device, dtype = settings.torch_device(), settings.torch_dtype()
    if settings.pair is not None:
        pair = Pair.found(*settings.pair, say)
        return pair.load(dtype=dtype, device=device, patch_order=settings.patch_order, quantization=settings.quantize)
    folder = builtin_folder() if settings.family is None else settings.family
    return Family.load(folder, dtype=dtype, device=device, quantization=settings.quantize)


def load_kernels(settings: Settings, say: Callable[[str], None]) -> Kernels | None:
    """Compiled kernels, where the settings want them and they are of use.

    Args:
        settings: of the service.
        say: told in one line what is being done.

    Raises:
        SettingsError: they are asked for by name and cannot be had.
    """
    is_of_use = kernels_are_of_use(settings)
    is_wanted = settings.compile or settings.quantize
    if is_wanted and (settings.compile is False or not is_of_use):
        raise SettingsError(
            "compiled kernels, which --quantize int8 needs too, are for float32 on a CPU; leave out --compile and "
            "--quantize, or ask for --dtype float32 --device cpu"
        )
    if settings.compile is False or not is_of_use:
        return None
    try:
        return Kernels.compiled(say)
    except SettingsError as error:
        if is_wanted:
            raise
        say(f"running without compiled kernels: {error}")
        return None


def kernels_are_of_use(settings: Settings) -> bool:
    """Whether there are compiled kernels for the device and dtype that the settings name."""
    return settings.torch_device().type == "cpu" and settings.torch_dtype() is torch.float32


def load_model(settings: Settings, family: Family, kernels: Kernels | None) -> Model:
    """The family's weights made runnable, with memory for keys and values.

    Raises:
        SettingsError: that memory is too little for a single request.
    """
    kv_bytes = settings.kv_bytes or default_kv_bytes(
        family.bank, answers=settings.max_running_requests, context_tokens=family.context_tokens
    )
    shared_by = [size.variant for size in family.ladder] if settings.prefix_cache else []
    return Model(family.bank, kv_bytes=kv_bytes, shared_by=shared_by, kernels=kernels)


def load_calibration(
    settings: Settings, family: Family, kernels: Kernels | None, say: Callable[[str], None]
) -> Calibration | None:
    """What `anysize calibrate` has stored for this machine, this family and these settings, if anything.

    Args:
        settings: of the service.
        family: loaded with them, so that torch has its threads.
        kernels: that will be used.
        say: told where a file is there that cannot be used.
    """
    try:
        return read_calibration(Key.of(settings, compiled=kernels is not None), family)
    except CalibrationError as error:
        say(str(error))
        return None


def run_server(settings: Settings, *, say: Callable[[str], None]) -> None:
    """Load a family and serve it until SIGTERM or SIGINT.

    Args:
        settings: of the service.
        say: told in one line what is being done.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    # Before the weights, which take far longer to load than a taken port takes to find.
    with listening(settings.host, settings.port) as listener:
        say = announcer(settings, say)
        kernels = load_kernels(settings, say)
        say("checking and loading the weights")
        family = load_family(settings, say)
        smallest, largest = family.ladder[0], family.ladder[-1]
        say(
            f"{family.name}: {len(family.ladder)} sizes from {smallest.footprint.parameters / 1e6:.1f} M to "
            f"{largest.footprint.parameters / 1e6:.1f} M parameters on {settings.torch_device()}"
            f"{', with compiled kernels' if kernels else ''}{', in int8' if settings.quantize else ''}"
        )
        calibration = load_calibration(settings, family, kernels, say)
        warn_of_open_door(settings, say)
        say("making room for keys and values, and starting the engine")
        app = create_app(settings, family, load_model(settings, family, kernels), calibration)
        config = server_config(app, settings)
        # What there is now lives as long as the service; looking through all of it would hold everybody up for 0.2 s.
        gc.collect()
        gc.freeze()
        # uvicorn hands a signal on once it has stopped; being asked to stop is no failure.
        signal.signal(signal.SIGTERM, _exit)
        signal.signal(signal.SIGINT, _exit)
        with metrics_apart(settings, app.state.service.metrics.registry, say):
            _Server(config, app.state.service.engine, settings.drain_s, say).run(sockets=[listener])


def server_config(app: FastAPI, settings: Settings, *, log_level: str = "warning") -> uvicorn.Config:
    """How uvicorn serves the app.

    Args:
        app: what is served.
        settings: of the service.
        log_level: of uvicorn's own log.
    """
    return uvicorn.Config(
        app,
        http=connections(settings),
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        ws="none",
        log_config=None,
        log_level=log_level,
        access_log=False,
        # The engine ends its requests at `drain_s`; this bounds whatever else is still open by then.
        timeout_graceful_shutdown=math.ceil(settings.drain_s) + 1,
        server_header=False,
    )


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to an address.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # With the protocol named too: asyncio turns off Nagle's algorithm only where it is, and with it every short
        # response on a kept connection waits some 40 ms for its client's acknowledgement.
        listener = socket.socket(*address[:3])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address[4])
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose others with --host and --port"
        ) from error
    return listener


def warn_of_open_door(settings: Settings, say: Callable[[str], None]) -> None:
    """Say so where other machines reach a service that asks nobody for a key."""
    if not settings.keys and settings.is_reachable:
        say(f"whoever reaches {settings.host} may use this service: there are no API keys (ANYSIZE_API_KEYS)")


class _Server(uvicorn.Server):
    """Says when it serves and stops, and ends the engine at the limit while uvicorn still waits for connections.

    Late requests get an answer so. Up to the limit the engine takes requests: those that come now were read before the
    listener closed.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, drain_s: float, say: Callable[[str], None]) -> None:
        super().__init__(config)
        self._say = say
        self._engine = engine
        self._drain_s = drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop being ready at once; the listener closes a moment later."""
        self._engine.announce_stop()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            self._say(f"serving on {where} (GET /variants lists the sizes, /docs describes the API)")

    async def shutdown(self, sockets: "list[socket.socket] | None" = None) -> None:
        self._say(f"stopping; requests under way have {self._drain_s:g} s")
        ending = asyncio.create_task(self._end_at_limit())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_at_limit(self) -> None:
        await asyncio.sleep(self._drain_s)
        await asyncio.to_thread(self._engine.stop, within_s=0)


def _exit(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)
