"""The app under a real server, on a free port, for tests that speak HTTP."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fakes import WatchedFamily
from fastapi import FastAPI
from models import KV_BYTES, WatchedModel, eventually
from starlette.types import Message

from anysize.api.app import create_app
from anysize.api.state import ServiceState
from anysize.commands.serve import server_config
from anysize.settings import Settings
from anysize.sizing.calibration import Calibration

# Answers are awaited this long; nothing is asserted by time.
LIMIT_S = 30


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that listens."""

    port: int
    family: WatchedFamily
    state: ServiceState
    app: FastAPI

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=LIMIT_S, trust_env=False)

    def generate(self, **body: Any) -> httpx.Response:
        """One request on a connection of its own."""
        with self.client() as client:
            return client.post("/generate", json=body)

    def raw(self) -> socket.socket:
        """A bare connection, for what no HTTP client would send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT_S)


@contextmanager
def serving(
    family: WatchedFamily,
    *,
    kv_bytes: int = KV_BYTES,
    calibration: Calibration | None = None,
    send_buffer_bytes: int | None = None,
    **settings: Any,
) -> Iterator[RunningService]:
    """Serve a family; stops at the end, whatever still runs. The machine's own buffers may be bounded."""
    given = {"max_queued_requests": 8, "prefill_chunk_tokens": 16, "drain_s": 20.0, **settings}
    app = create_app(Settings(**given), family, WatchedModel(family, kv_bytes=kv_bytes), calibration)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:  # as `anysize serve` does
        if send_buffer_bytes is not None:  # of each connection, which takes it over
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(server_config(app, app.state.service.settings, log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        eventually(lambda: server.started)
        try:
            yield RunningService(listener.getsockname()[1], family, app.state.service, app)
        finally:
            family.before_step = lambda rows: None
            server.should_exit = True
            thread.join(timeout=LIMIT_S)
            assert not thread.is_alive()


async def silence() -> Message:
    """What a client sends that stays and says nothing more."""
    await asyncio.Event().wait()
    raise AssertionError


def http_request(body: bytes, *headers: str, path: str = "/generate", method: str = "POST") -> bytes:
    """The bytes of one request."""
    lines = (f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
