"""Clients that hold connections: heads and bodies that trickle, answers that nobody takes."""

import contextlib
import json
import resource
import select
import socket
import time
from collections.abc import Iterator

import psutil
import pytest
from fakes import long_winded_family
from models import eventually
from serving import RunningService, http_request, serving

from anysize.api.connection import Connection

HEAD = b"POST /generate HTTP/1.1\r\nHost: x\r\nX-Slow: "
KEY = "a-key-of-their-own-0123"


@pytest.fixture(scope="module")
def hurried() -> Iterator[RunningService]:
    """A service that waits for nobody."""
    with serving(long_winded_family(), head_timeout_s=0.5, body_timeout_s=0.5, write_timeout_s=0.5) as service:
        yield service


def has_ended(connection: socket.socket, seen: bytearray) -> bool:
    """Whether the service has closed a connection; reads what there is to read."""
    while select.select([connection], [], [], 0)[0]:
        try:
            piece = connection.recv(1 << 16)
        except ConnectionError:
            return True
        if not piece:
            return True
        seen += piece
    return False


def hold(service: RunningService, count: int, *, patience_s: float = 60) -> None:
    """Hold connections with heads that go on and on, beside a client who wants answers, until the service ends them."""
    assert service.generate(prompt="abc", max_tokens=2).status_code == 200
    process = psutil.Process()
    time.sleep(0.1)
    before = process.num_fds()
    end_s = time.monotonic() + patience_s
    with contextlib.ExitStack() as stack:
        held = {stack.enter_context(service.raw()): bytearray() for _ in range(count)}
        for connection in held:
            connection.sendall(HEAD)
        with service.client() as healthy:
            while waiting := [one for one, seen in held.items() if not has_ended(one, seen)]:
                assert time.monotonic() < end_s, f"{len(waiting)} connections are still held"
                for connection in waiting:
                    with contextlib.suppress(ConnectionError):
                        connection.sendall(b"a")
                assert healthy.post("/generate", json={"prompt": "abc", "max_tokens": 2}).status_code == 200
        answers = [bytes(seen) for seen in held.values() if seen]
        assert all(answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n") for answer in answers)
        assert len(answers) > count / 2  # the others' last byte crossed the answer, which resets a connection
    eventually(lambda: process.num_fds() <= before)


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.nightly)])
def test_heads_that_never_end_hold_no_connection_and_nobody_up(hurried: RunningService, count: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        hold(hurried, count)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_that_are_held_would_be_seen(hurried: RunningService, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Connection, "_let_go", lambda self: None)
    with pytest.raises(AssertionError, match="3 connections are still held"):
        hold(hurried, 3, patience_s=1)


def crowd(service: RunningService, most: int) -> None:
    """Hold as many connections as there may be; one more is turned away, until one of them has gone."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(service.raw()) for _ in range(most)]
        with service.raw() as one_more:
            seen = bytearray()
            eventually(lambda: has_ended(one_more, seen))
        assert seen.startswith(b"HTTP/1.1 503 Service Unavailable\r\n"), "it was let in"
        assert b"the %d connections that it allows" % most in seen
        held[0].sendall(http_request(b"", "Connection: close", path="/ready", method="GET"))
        seen = bytearray()
        eventually(lambda: has_ended(held[0], seen))
        assert seen.startswith(b"HTTP/1.1 200 ")
        assert service.generate(prompt="abc", max_tokens=2).status_code == 200


def test_more_connections_than_allowed_are_turned_away_and_the_others_served():
    with serving(long_winded_family(), max_connections=5) as service:
        crowd(service, 5)


def test_connections_without_a_limit_would_be_seen(hurried: RunningService):
    with pytest.raises(AssertionError, match="it was let in"):
        crowd(hurried, 5)


@pytest.mark.parametrize("first", [b"", http_request(b"", path="/ready", method="GET")], ids=["new", "kept"])
def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(hurried: RunningService, first: bytes):
    with hurried.raw() as connection:
        connection.sendall(first)
        seen = bytearray()
        eventually(lambda: has_ended(connection, seen))
    assert seen.count(b"HTTP/1.1 ") == bool(first)
    assert b"HTTP/1.1 408" not in seen


def test_a_head_that_comes_in_pieces_is_read_and_so_is_the_next(hurried: RunningService):
    with hurried.raw() as connection:
        for _ in range(3):
            whole = http_request(b"", path="/ready", method="GET")
            for start in range(0, len(whole), 20):
                connection.sendall(whole[start : start + 20])
            seen = b""
            while not seen.endswith(b"}"):
                seen += connection.recv(1 << 16)
            assert seen.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
@pytest.mark.parametrize("length", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_body_that_trickles_is_refused_in_the_shape_of_its_route(hurried: RunningService, path: str, length: str):
    with hurried.raw() as connection:
        connection.sendall(http_request(b"", length, path=path))
        seen = bytearray()
        while not has_ended(connection, seen):
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"1\r\n \r\n" if "chunked" in length else b" ")
            time.sleep(0.02)
    head, _, body = bytes(seen).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    error = json.loads(body)["error"]
    assert "did not arrive within the 0.5 s" in error["message"]
    assert "body_too_slow" in (error["type"], error.get("code"))
    assert hurried.state.engine.state().running == 0


def test_a_body_that_goes_on_after_its_request_was_refused_holds_no_connection():
    with serving(long_winded_family(), head_timeout_s=0.5, api_keys=KEY) as service, service.raw() as connection:
        connection.sendall(http_request(b"", "Content-Length: 100000"))
        seen = bytearray()
        eventually(lambda: trickles_to_its_end(connection, seen))
        assert seen.startswith(b"HTTP/1.1 401 ")


def trickles_to_its_end(connection: socket.socket, seen: bytearray) -> bool:
    with contextlib.suppress(ConnectionError):
        connection.sendall(b" ")
    time.sleep(0.01)
    return has_ended(connection, seen)


STREAM = json.dumps({"prompt": "a", "max_tokens": 240, "logprobs": 20, "n": 8, "stream": True}).encode()


@pytest.mark.parametrize(
    "asked",
    [
        http_request(b"", path="/openapi.json", method="GET") * 150,
        http_request(STREAM, f"Content-Length: {len(STREAM)}") * 3,
    ],
    ids=["whole", "streamed"],
)
def test_answers_that_nobody_takes_hold_no_connection(hurried: RunningService, asked: bytes):
    process = psutil.Process()
    time.sleep(0.1)
    before = process.num_fds()
    with socket.socket() as connection:
        # Small buffers of the machine, so that the service's own fill.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", hurried.port))
        connection.sendall(asked)
        eventually(lambda: process.num_fds() == before + 2)
        eventually(lambda: process.num_fds() == before + 1)
        assert hurried.generate(prompt="abc", max_tokens=2).status_code == 200
