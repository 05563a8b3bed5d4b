"""Clients that stream and take a byte now and then: they keep little, hold nobody up, and are let go."""

import contextlib
import json
import socket
import time

import psutil
import pytest
from fakes import long_winded_family
from models import eventually
from serving import LIMIT_S, RunningService, http_request, serving

READERS = 20
MOST_BYTES = 32 << 20
# Some 600 KB of events, ten times what is buffered before the service waits for its reader.
STREAM = json.dumps({"prompt": "a", "max_tokens": 240, "logprobs": 20, "stream": True}).encode()
BUFFER_BYTES = 4096


def read_slowly(service: RunningService, *, patience_s: float = 120) -> None:
    """Stream to readers who take a byte a round, beside a client who wants answers, until the service ends them."""
    asked = {"prompt": "The sea is", "max_tokens": 8}
    alone = service.generate(**asked).json()["text"]
    process = psutil.Process()
    time.sleep(0.1)
    fds, rss_bytes = process.num_fds(), process.memory_info().rss
    end_s = time.monotonic() + patience_s
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(socket.socket()) for _ in range(READERS)]
        for reader in readers:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            reader.settimeout(LIMIT_S)
            reader.connect(("127.0.0.1", service.port))
            reader.sendall(http_request(STREAM, f"Content-Length: {len(STREAM)}"))
        taken = [bytearray(reader.recv(1)) for reader in readers]
        while process.num_fds() > fds + READERS:
            assert time.monotonic() < end_s, "readers are still held"
            for reader, seen in zip(readers, taken, strict=True):
                with contextlib.suppress(ConnectionError):
                    seen += reader.recv(1)
            assert service.generate(**asked).json()["text"] == alone
            assert process.memory_info().rss - rss_bytes <= MOST_BYTES
        for reader, seen in zip(readers, taken, strict=True):
            with contextlib.suppress(ConnectionError):
                while piece := reader.recv(1 << 16):
                    seen += piece
        assert all(seen.startswith(b"HTTP/1.1 200 ") for seen in taken)
        assert not any(b"event: done" in seen for seen in taken), "a reader got it all"
    eventually(lambda: process.num_fds() <= fds)
    state = service.state.engine.state()  # alive, as it counts its pages whenever it is idle
    assert (state.waiting, state.running, state.alive) == (0, 0, True)


def test_readers_of_a_byte_now_and_then_hold_nobody_up_and_are_let_go():
    with serving(
        long_winded_family(), write_timeout_s=1, max_queued_requests=READERS, send_buffer_bytes=BUFFER_BYTES
    ) as service:
        read_slowly(service)


def test_readers_who_are_never_let_go_would_be_seen():
    with (
        serving(
            long_winded_family(), write_timeout_s=3600, max_queued_requests=READERS, send_buffer_bytes=BUFFER_BYTES
        ) as service,
        pytest.raises(AssertionError, match="readers are still held"),
    ):
        read_slowly(service, patience_s=3)
