"""The engine: a bounded queue and the one thread that runs the model.

Each submitted request ends in exactly one way: its future gets a `Completion` or an error. Nothing else touches the
model while the engine runs.
"""

import logging
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread

from anysize.engine.generation import generate
from anysize.engine.request import Completion, GenerationRequest
from anysize.errors import EngineError, OverloadedError
from anysize.family.family import Family

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Ticket:
    request: GenerationRequest
    future: "Future[Completion]"
    arrived_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class EngineState:
    """A glance at the engine.

    Attributes:
        waiting: requests in the queue.
        running: requests that the model works on.
        alive: whether the model thread runs.
        step_age_s: time since the model last finished a step; 0 when it has nothing to do.
        draining: whether new requests are refused for good.
    """

    waiting: int
    running: int
    alive: bool
    step_age_s: float
    draining: bool


class Engine:
    """Answers requests one after another, in the order they came.

    Args:
        family: what is served.
        max_queued_requests: how many may wait.
        prefill_chunk_tokens: prompt tokens run at once.
    """

    def __init__(self, family: Family, *, max_queued_requests: int, prefill_chunk_tokens: int) -> None:
        self._family = family
        self._max_queued_requests = max_queued_requests
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._changed = Condition()
        self._waiting: deque[_Ticket] = deque()
        self._running: _Ticket | None = None
        self._draining = False
        self._last_step_s = time.monotonic()
        self._last_duration_s = 1.0
        self._thread = Thread(target=self._work, name="anysize-engine", daemon=True)

    def start(self) -> None:
        """Start the model thread."""
        self._thread.start()

    def submit(self, request: GenerationRequest) -> "Future[Completion]":
        """Queue a request.

        Returns:
            A future that ends in a `Completion`, or in `EngineError` if the model failed or the engine stopped.

        Raises:
            OverloadedError: the queue is full.
            EngineError: the engine is stopping.
        """
        ticket = _Ticket(request, Future())
        with self._changed:
            if self._draining:
                raise EngineError("the service is stopping and takes no new requests")
            if len(self._waiting) >= self._max_queued_requests:
                wait_s = max(1, round(self._last_duration_s * len(self._waiting)))
                raise OverloadedError(f"{len(self._waiting)} requests are waiting, as many as may", min(wait_s, 600))
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket.future

    def state(self) -> EngineState:
        """A glance at the engine; never waits for the model."""
        running = self._running
        return EngineState(
            waiting=len(self._waiting),
            running=int(running is not None),
            alive=self._thread.is_alive(),
            step_age_s=time.monotonic() - self._last_step_s if running is not None else 0.0,
            draining=self._draining,
        )

    def drain(self) -> None:
        """Refuse new requests from now on; those already here are still answered."""
        with self._changed:
            self._draining = True
            self._changed.notify()

    def stop(self, *, within_s: float) -> None:
        """Drain, wait for what is left, then end every remaining request with an error.

        Args:
            within_s: how long to wait.
        """
        self.drain()
        self._thread.join(timeout=within_s)
        with self._changed:
            left = [*self._waiting]
            self._waiting.clear()
            if self._running is not None:
                left.append(self._running)
        for ticket in left:
            ticket.request.cancelled.set()
            _fail(ticket, EngineError("the service stopped before this request was answered"))
        self._thread.join(timeout=within_s)

    def _work(self) -> None:
        while (ticket := self._next()) is not None:
            try:
                self._answer(ticket)
            finally:
                self._running = None

    def _next(self) -> _Ticket | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._draining)
            if not self._waiting:
                return None
            ticket = self._waiting.popleft()
            self._beat()
            self._running = ticket
            return ticket

    def _answer(self, ticket: _Ticket) -> None:
        started_s = time.monotonic()
        try:
            completion = generate(
                self._family,
                ticket.request,
                arrived_s=ticket.arrived_s,
                prefill_chunk_tokens=self._prefill_chunk_tokens,
                beat=self._beat,
            )
        except Exception as error:  # whatever one request does to the model must not end the thread
            logger.exception("request %s failed", ticket.request.id)
            _fail(ticket, EngineError(f"the model failed on this request: {type(error).__name__}"))
        else:
            self._last_duration_s = time.monotonic() - started_s
            if not ticket.future.done():
                ticket.future.set_result(completion)

    def _beat(self) -> None:
        self._last_step_s = time.monotonic()


def _fail(ticket: _Ticket, error: EngineError) -> None:
    if not ticket.future.done():
        ticket.future.set_exception(error)
