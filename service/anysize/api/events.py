"""Answers as server-sent events: what is sent, when, and to whom no longer. How it is worded is a `Script`'s."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from anysize.api.errors import NO_MEMORY
from anysize.api.leaving import cancelled_on_disconnect
from anysize.engine.engine import Engine
from anysize.engine.request import Completion, GenerationRequest, Piece
from anysize.engine.stream import TextStream
from anysize.errors import AnysizeError

logger = logging.getLogger(__name__)

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    # Whatever stands between must pass each event on as it comes.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

OnEnd = Callable[[int, Completion | AnysizeError], None]


class Script(Protocol):
    """How answers are worded. Each method but `refused` returns whole events, or nothing."""

    def begun(self) -> bytes:
        """Before anything else."""
        ...

    def text(self, place: int, piece: Piece, /) -> bytes:
        """For a piece of the request at this place."""
        ...

    def done(self, completions: Sequence[Completion]) -> bytes:
        """After the last piece; one completion a request."""
        ...

    def broken(self, error: AnysizeError) -> bytes:
        """Instead of `done`, where a request failed after the response had begun."""
        ...

    def refused(self, error: AnysizeError) -> Response:
        """Instead of a stream, where a request failed before."""
        ...


class EventStream(Response):
    """Streams the answers to requests that came as one.

    The response begins with the first event, so what fails before there is any text gets an ordinary error. A client
    that leaves, or takes nothing for too long, cancels its requests; one that fails cancels the others.

    Args:
        engine: answers them.
        requests: what to answer; they share one `cancelled`.
        script: words the events.
        write_timeout_s: how long the client may take nothing.
        on_end: told how each request ended, by its place, once, whether or not anybody still reads.

    Raises:
        AnysizeError: the engine refuses one of the requests.
    """

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[GenerationRequest],
        script: Script,
        write_timeout_s: float,
        on_end: OnEnd,
    ) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        assert all(request.cancelled is requests[0].cancelled for request in requests)
        self._requests = requests
        self._script = script
        self._write_timeout_s = write_timeout_s
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._streams = [TextStream(self._wake) for _ in requests]
        self._futures: list[Future[Completion]] = []
        try:
            for place, (request, stream) in enumerate(zip(requests, self._streams, strict=True)):
                future = engine.submit(request, stream.push)
                # On the model thread, where the request that this is about would not be known.
                in_context = partial(copy_context().run, on_end)
                future.add_done_callback(partial(self._ended, place, in_context))
                self._futures.append(future)
        except AnysizeError:
            requests[0].cancelled.set()
            raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come."""
        try:
            async with cancelled_on_disconnect(receive, self._requests[0]):
                await self._send_all(scope, receive, send)
        except TimeoutError:
            logger.info("request %s: the client took nothing for %g s", self._requests[0].id, self._write_timeout_s)

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_begun = False
        while True:
            await self._news.wait()
            self._news.clear()
            is_done = all(
                future.done() for future in self._futures
            )  # before taking what is unread: nothing comes after
            pieces = [(place, piece) for place, stream in enumerate(self._streams) for piece in stream.take()]
            outcomes = [_outcome(future) for future in self._futures] if is_done else []
            if not (pieces or outcomes):
                continue
            error = next((outcome for outcome in outcomes if isinstance(outcome, AnysizeError)), None)
            if error is not None and not is_begun and not pieces:
                await self._script.refused(error)(scope, receive, send)
                return
            try:
                body = self._worded(pieces, outcomes, error)
                body = body if is_begun else self._script.begun() + body
            except MemoryError:
                if not is_begun:
                    raise
                self._requests[0].cancelled.set()
                body, is_done = self._script.broken(NO_MEMORY), True
            if not is_begun:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                is_begun = True
            if body or is_done:
                async with asyncio.timeout(self._write_timeout_s):
                    await send({"type": "http.response.body", "body": body, "more_body": not is_done})
            if is_done:
                return

    def _worded(
        self,
        pieces: Sequence[tuple[int, Piece]],
        outcomes: Sequence[Completion | AnysizeError],
        error: AnysizeError | None,
    ) -> bytes:
        """What is new; the end of the stream where there are outcomes, one of which may be an error."""
        events = [self._script.text(place, piece) for place, piece in pieces]
        if error is not None:
            events.append(self._script.broken(error))
        elif outcomes:
            events.append(self._script.done([outcome for outcome in outcomes if isinstance(outcome, Completion)]))
        return b"".join(events)

    def _ended(self, place: int, on_end: OnEnd, future: "Future[Completion]") -> None:
        """From whichever thread ends a request."""
        outcome = _outcome(future)
        if isinstance(outcome, AnysizeError):
            self._requests[0].cancelled.set()
        on_end(place, outcome)
        self._wake()

    def _wake(self) -> None:
        """From whichever thread has news."""
        self._loop.call_soon_threadsafe(self._news.set)


def event(data: str, name: str | None = None) -> bytes:
    """One event.

    Args:
        data: JSON, or any other text of one line.
        name: of the event, if it has one.
    """
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data}\n\n".encode()


def _outcome(future: "Future[Completion]") -> Completion | AnysizeError:
    error = future.exception()
    if error is None:
        return future.result()
    assert isinstance(error, AnysizeError)
    return error
