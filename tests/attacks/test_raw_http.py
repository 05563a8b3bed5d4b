"""Bytes that are hardly HTTP: every answer is a refusal or none, and the service lives on."""

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

import httpx
import pytest
from fakes import long_winded_family
from models import eventually
from raw_http import mutated, statuses
from serving import LIMIT_S, RunningService, serving
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from anysize.api import errors
from anysize.api.body_limit import BodyLimit

_CLIENTS = 24
_TRACES = (b"Traceback", b'File "', b".py", b"site-packages")


@pytest.fixture
def hurried() -> Iterator[RunningService]:
    """A service that soon ends connections on which no more comes."""
    with serving(long_winded_family(), head_timeout_s=0.3, body_timeout_s=0.3, max_queued_requests=256) as service:
        yield service


def answer_to(service: RunningService, sent: bytes) -> bytes:
    """All that a connection brings until the service ends it."""
    found = b""
    with service.raw() as connection:
        try:
            connection.sendall(sent)
            while piece := connection.recv(1 << 16):
                found += piece
        except ConnectionError:  # a service need not read what it refuses
            pass
    return found


def try_one(service: RunningService, client: httpx.Client, seed: int) -> None:
    """Send one hostile request, and ask how the service is."""
    sent, is_wrong = mutated(seed)
    answer = answer_to(service, sent)
    try:
        found = statuses(answer)
        assert not any(trace in answer for trace in _TRACES), "a traceback was sent"
        assert all(status == 200 or 400 <= status < 500 for status in found), "it failed"
        assert not (is_wrong and 200 in found), "it was accepted"
        assert client.get("/health").status_code == 200, "the service is ill"
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}\nsent {sent[:300]!r}\ngot {answer[:300]!r}") from error


def try_many(service: RunningService, seeds: range) -> None:
    unkept = httpx.Limits(max_keepalive_connections=0)  # a kept one may end as it is used
    client = httpx.Client(base_url=service.url, timeout=LIMIT_S, trust_env=False, limits=unkept)
    with client, ThreadPoolExecutor(_CLIENTS) as pool:  # closed once nobody uses it
        for _ in pool.map(partial(try_one, service, client), seeds):
            pass
    eventually(lambda: service.state.engine.state().running + service.state.engine.state().waiting == 0)
    assert service.state.metrics.registry.get_sample_value("anysize_kv_pages_used") == 0
    assert service.generate(prompt="abc", max_tokens=2).status_code == 200


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_what_is_hardly_http_is_refused_and_the_service_lives(
    hurried: RunningService, count: int, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("ERROR", logger="uvicorn.error")
    try_many(hurried, range(count))
    assert not caplog.records, "a stranger can fill the log"


def fail(*_: object) -> NoReturn:
    raise RuntimeError("planted")


def tell_all(request: Request, _error: Exception) -> PlainTextResponse:
    try:
        fail()
    except RuntimeError:
        return PlainTextResponse(traceback.format_exc(), 422)


@pytest.mark.parametrize(("planted", "message"), [(fail, "it failed"), (tell_all, "a traceback was sent")])
def test_what_goes_wrong_would_be_seen(monkeypatch: pytest.MonkeyPatch, planted: Callable[..., Any], message: str):
    monkeypatch.setattr(errors, "_invalid", planted)
    with (
        serving(long_winded_family(), head_timeout_s=0.3, body_timeout_s=0.3) as service,
        pytest.raises(AssertionError, match=message),
    ):
        try_many(service, range(48))


def test_two_lengths_that_are_taken_would_be_seen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(BodyLimit, "__call__", lambda self, *arguments: self._app(*arguments))
    with (
        serving(long_winded_family(), head_timeout_s=0.3) as service,
        pytest.raises(AssertionError, match="it was accepted"),
    ):
        try_many(service, range(1, 100, 12))  # of two lengths each
