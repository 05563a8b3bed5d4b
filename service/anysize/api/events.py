"""An answer as server-sent events: `text` for each piece, then one `done` or `error`."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from anysize.api.answer import GenerateOut, PieceOut, TokenTexts
from anysize.api.errors import error_out, error_response_of
from anysize.api.leaving import cancelled_on_disconnect
from anysize.engine.engine import Engine
from anysize.engine.request import Completion, GenerationRequest
from anysize.engine.stream import TextStream
from anysize.errors import AnysizeError
from anysize.sizing.planner import Promise

logger = logging.getLogger(__name__)

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    # Whatever stands between must pass each event on as it comes.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

OnEnd = Callable[[Completion | AnysizeError], None]


class EventStream(Response):
    """Streams the answer to one request.

    The response begins with the first event, so a request that fails before it has any text gets an ordinary error.
    A client that leaves, or takes nothing for too long, cancels its request.

    Args:
        engine: answers it.
        request: what to answer.
        texts: of tokens, for logprobs.
        write_timeout_s: how long the client may take nothing.
        promise: what a latency budget was promised, if the request has one.
        on_end: told how it ended, once, whether or not anybody still reads.

    Raises:
        AnysizeError: the engine refuses the request.
    """

    def __init__(
        self,
        engine: Engine,
        request: GenerationRequest,
        texts: TokenTexts,
        write_timeout_s: float,
        promise: Promise | None,
        on_end: OnEnd,
    ) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._request = request
        self._texts = texts
        self._promise = promise
        self._write_timeout_s = write_timeout_s
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._stream = TextStream(self._wake)
        self._future = engine.submit(request, self._stream.push)
        # On the model thread, where the request that this is about would not be known.
        context = copy_context()
        self._future.add_done_callback(lambda future: context.run(on_end, _outcome(future)))
        self._future.add_done_callback(self._wake)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come."""
        try:
            async with cancelled_on_disconnect(receive, self._request):
                await self._send_all(scope, receive, send)
        except TimeoutError:
            logger.info("request %s: the client took nothing for %g s", self._request.id, self._write_timeout_s)

    async def _send_all(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_begun = False
        while True:
            await self._news.wait()
            self._news.clear()
            is_done = self._future.done()  # before taking what is unread: nothing comes after it
            events = [_event("text", PieceOut.of(self._request, one, self._texts)) for one in self._stream.take()]
            if is_done:
                outcome = _outcome(self._future)
                if isinstance(outcome, AnysizeError) and not is_begun and not events:
                    await error_response_of(outcome)(scope, receive, send)
                    return
                events.append(self._last_event(outcome))
            if events:
                if not is_begun:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    is_begun = True
                async with asyncio.timeout(self._write_timeout_s):
                    body = b"".join(events)
                    await send({"type": "http.response.body", "body": body, "more_body": not is_done})
            if is_done:
                return

    def _last_event(self, outcome: Completion | AnysizeError) -> bytes:
        if isinstance(outcome, AnysizeError):
            return _event("error", error_out(outcome))
        return _event("done", GenerateOut.of(self._request, outcome, self._texts, self._promise))

    def _wake(self, _done: object = None) -> None:
        """From whichever thread has news."""
        self._loop.call_soon_threadsafe(self._news.set)


def _event(name: str, data: BaseModel) -> bytes:
    return f"event: {name}\ndata: {data.model_dump_json(exclude_unset=True)}\n\n".encode()


def _outcome(future: "Future[Completion]") -> Completion | AnysizeError:
    error = future.exception()
    if error is None:
        return future.result()
    assert isinstance(error, AnysizeError)
    return error
