"""A service in a process of its own, for benchmarks of what its clients see."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket

import httpx

from anysize.errors import EngineError

_START_LIMIT_S = 180


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that is ready.

    Attributes:
        url: where.
        pid: of its process.
    """

    url: str
    pid: int

    def client(self) -> httpx.Client:
        """A client that uses no proxy."""
        return httpx.Client(base_url=self.url, timeout=120, trust_env=False)


@contextmanager
def running_service(family: Path | None, **settings: object) -> Iterator[RunningService]:
    """Start a service on a free port, wait until it is ready, and stop it at the end.

    Args:
        family: folder; the built-in family by default.
        settings: those of `Settings`, by name; None leaves one as it is.

    Raises:
        EngineError: it does not come up.
    """
    port = _free_port()
    command = [sys.executable, "-m", "anysize", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--family", str(family)] if family else []
    given = {name: value for name, value in settings.items() if value is not None}
    env = os.environ | {f"ANYSIZE_{name.upper()}": str(value) for name, value in given.items()}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=env)  # noqa: S603
    service = RunningService(f"http://127.0.0.1:{port}", process.pid)
    try:
        with service.client() as client:
            _await_ready(client, process)
        yield service
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(client: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.TransportError):
            if client.get("/ready").status_code == httpx.codes.OK:
                return
        time.sleep(0.2)
    raise EngineError("the service did not come up; try `anysize serve` to see why")


def _free_port() -> int:
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
