"""Cancelled at whatever it waits for, a request frees its pages once; and no `await` of the source is left out."""

import ast
import asyncio
import gc
import inspect
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fakes import long_winded_family
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from models import HashModel
from starlette.types import ASGIApp, Message

import anysize.api
import anysize.engine
from anysize.api.app import create_app
from anysize.settings import Settings

FOLDERS = [Path(package.__path__[0]) for package in (anysize.api, anysize.engine)]
KEY = "a-key-of-their-own-0123"
MAX_BODY_BYTES = 1024
ASK = b'{"prompt": "abc", "max_tokens": 6}'
STREAM = b'{"prompt": "abc", "max_tokens": 6, "stream": true}'
CHAT = b'{"model": "tiny", "messages": [{"role": "user", "content": "abc"}], "max_tokens": 6}'
COMPLETION = b'{"model": "tiny", "prompt": "abc", "max_tokens": 6}'
# No request waits at these: the app's own life, what is no HTTP, and a task beside each request that ends with it.
APART = {
    ("app.py", "life: await run_in_threadpool(engine.stop, within_s=settings.drain_s)"),
    ("app.py", "life: await run_in_threadpool(tracing.close)"),
    ("body_limit.py", "__call__: await self._app(scope, receive, send)"),
    ("observed.py", "__call__: await self._app(scope, receive, send)"),
    ("leaving.py", "watch: await receive()"),
}
# Path, body in pieces, further headers, and whether the model fails.
Case = tuple[str, Sequence[bytes], dict[str, str], bool]
CASES: dict[str, Case] = {
    "whole": ("/generate", [ASK[:9], ASK[9:]], {}, False),
    "streamed": ("/generate", [STREAM], {}, False),
    "chat": ("/v1/chat/completions", [CHAT], {}, False),
    "completion": ("/v1/completions", [COMPLETION], {}, False),
    "stream that fails": ("/generate", [STREAM], {}, True),
    "compressed": ("/generate", [ASK], {"content-encoding": "gzip"}, False),
    "two lengths": ("/generate", [ASK], {"content-length": "1", "transfer-encoding": "chunked"}, False),
    "too long": ("/generate", [ASK], {"content-length": "5000"}, False),
    "grows too long": ("/generate", [b" " * MAX_BODY_BYTES, ASK, ASK], {}, False),
}
Place = tuple[str, str]


def awaits() -> dict[Place, tuple[int, int]]:
    """Every `await` and `async for` in the source, and its first and last line.

    The blocks of `async with` wait for nothing when they begin and end.
    """
    return {
        (path.name, f"{function.name}: {ast.unparse(node)}"): (node.lineno, node.end_lineno or node.lineno)
        for folder in FOLDERS
        for path in folder.rglob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.AsyncFunctionDef)
        for node in own_nodes(function)
        if isinstance(node, ast.Await | ast.AsyncFor)
    }


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Those of a function without those of functions inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.AsyncFunctionDef | ast.FunctionDef):
            yield child
            yield from own_nodes(child)


AWAITS = awaits()


class Watched:
    """Awaits something, notes where it waits each time, and calls back at the n-th time."""

    def __init__(self, awaited: Awaitable[None], number: int, then: Callable[[], object]) -> None:
        self._awaited = awaited
        self._number = number
        self._then = then
        self.places: list[set[Place]] = []

    def __await__(self) -> Generator[Any, Any, None]:
        running = self._awaited.__await__()
        go_on: Callable[[], Any] = partial(running.send, None)
        while True:
            try:
                waited_for = go_on()
            except StopIteration:
                return
            self.places.append({*stands_at(self._awaited)})
            if len(self.places) == self._number:
                self._then()
            try:
                go_on = partial(running.send, (yield waited_for))
            except asyncio.CancelledError as error:
                go_on = partial(running.throw, error)


def stands_at(awaited: Any) -> Iterator[Place]:
    """At which of the source's awaits a coroutine stands, from outside in."""
    while awaited is not None:
        if type(awaited).__name__ == "async_generator_asend":
            awaited = next(filter(inspect.isasyncgen, gc.get_referents(awaited)))
        frame = getattr(awaited, "cr_frame", None)
        if frame is not None:
            path = Path(frame.f_code.co_filename)
            is_ours = any(folder in path.parents for folder in FOLDERS)
            for (name, text), (first, last) in AWAITS.items():
                if is_ours and path.name == name and first <= frame.f_lineno <= last:
                    yield name, text
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)


async def ask(app: ASGIApp, case: Case, number: int) -> list[set[Place]]:
    """One request, cancelled at the n-th place at which it waits, if it comes so far; where it has waited."""
    path, pieces, more_headers, _ = case
    left = list(pieces)
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}", **more_headers}

    async def receive() -> Message:
        await asyncio.sleep(0)
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Message) -> None:
        await asyncio.sleep(0)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }

    async def watched() -> None:
        await watching

    watching = Watched(app(scope, receive, send), number, lambda: asyncio.get_running_loop().call_soon(task.cancel))
    task = asyncio.create_task(watched())
    await asyncio.wait([task], timeout=60)
    assert task.done(), "it hangs"
    return watching.places


async def cancel_everywhere(repeats: int, model: HashModel, seen: set[Place]) -> None:
    settings = Settings.model_validate(
        {"api_keys": KEY, "rate_limit": "1000000/minute", "max_body_bytes": MAX_BODY_BYTES, "prefill_chunk_tokens": 16}
    )
    app = create_app(settings, long_winded_family(), model)
    service = app.state.service
    service.engine.start()
    try:
        for case in CASES.values():
            number, waits, places = 0, 1, []
            while number <= waits:  # 0 cancels nowhere, and so finds out how often it waits
                for _ in range(repeats if number else 1):
                    fail_if(case[3], model)
                    places = await ask(app, case, number)
                    seen.update(*places)
                    await at_rest(service.engine, model)
                waits = len(places) if number == 0 else waits
                number += 1
        fail_if(False, model)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(SlidingWindowCounterRateLimiter, "hit", slow(False))
            for number in range(4):
                seen.update(*await ask(app, CASES["whole"], number))
        await at_rest(service.engine, model)
        assert service.engine.state().alive
    finally:
        await asyncio.to_thread(service.engine.stop, within_s=10)


def fail_if(fails: bool, model: HashModel) -> None:
    def before(rows: Sequence[Any]) -> None:
        # On the prompt alone: a model that fails on a single token as well ends the service.
        if fails and any(len(row.token_ids) > 1 for row in rows):
            raise RuntimeError("planted")

    model.before_step = before


def slow(answer: bool) -> Callable[..., Awaitable[bool]]:
    """A rate limit that is asked for as if it were elsewhere."""

    async def hit(*_: object) -> bool:
        await asyncio.sleep(0)
        return answer

    return hit


async def at_rest(engine: Any, model: HashModel) -> None:
    """Wait until the engine has nothing to do; it must hold no page, and none may have been freed twice."""
    for _ in range(1000):
        state = engine.state()
        if (state.running, state.waiting, len(model.held)) == (0, 0, 0):
            break
        await asyncio.sleep(0.002)
    assert not model.held, "pages are held"
    assert model.free_pages == model.total_pages
    assert engine.state().alive


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("repeats", [1, pytest.param(20, marks=pytest.mark.fault)])
def test_cancelled_at_each_await_of_the_source_a_request_frees_its_pages_once(
    repeats: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("CRITICAL", logger="anysize")
    limiter = SlidingWindowCounterRateLimiter
    window = limiter.get_window_stats

    async def get_window_stats(self: Any, *arguments: Any) -> Any:
        await asyncio.sleep(0)
        return await window(self, *arguments)

    monkeypatch.setattr(limiter, "hit", slow(True))
    monkeypatch.setattr(limiter, "get_window_stats", get_window_stats)
    seen: set[Place] = set()
    asyncio.run(cancel_everywhere(repeats, HashModel(), seen))
    assert AWAITS.keys() - seen == APART


def test_pages_that_a_cancelled_request_keeps_would_be_seen(monkeypatch: pytest.MonkeyPatch):
    release = HashModel.release
    monkeypatch.setattr(HashModel, "release", lambda self, sequence: len(self.held) > 1 and release(self, sequence))
    with pytest.raises(AssertionError, match="pages are held"):
        asyncio.run(cancel_everywhere(1, HashModel(), set()))
