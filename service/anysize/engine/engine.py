"""The engine: a bounded queue and the one thread that runs the model.

Each submitted request ends in exactly one way: its future gets a `Completion` or an error, from whoever took it out of
the queue or out of `_running`, under the lock. Nothing else touches the model while the engine runs.
"""

import logging
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition, Thread

from anysize.engine.generation import generate, unanswered
from anysize.engine.request import Completion, GenerationRequest
from anysize.errors import EngineError, OverloadedError
from anysize.family.family import Family

logger = logging.getLogger(__name__)

_MAX_RETRY_AFTER_S = 600
# A thread that is cut off inside a step can bring the whole process down at exit.
_LAST_STEP_S = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class _Ticket:
    request: GenerationRequest
    future: "Future[Completion]"
    arrived_s: float = field(default_factory=time.monotonic)

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.request.cancelled.is_set() or self.future.cancelled()


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
            # Looked through only when full: those who left must not keep others out.
            left = self._take_cancelled() if len(self._waiting) >= self._max_queued_requests else []
            waiting = len(self._waiting)
            has_room = waiting < self._max_queued_requests
            if has_room:
                self._waiting.append(ticket)
                self._changed.notify()
        for one in left:
            one.future.set_result(unanswered(one.arrived_s))
        if not has_room:
            wait_s = max(1, round(self._last_duration_s * waiting))
            raise OverloadedError(f"{waiting} requests are waiting, as many as may", min(wait_s, _MAX_RETRY_AFTER_S))
        return ticket.future

    def state(self) -> EngineState:
        """A glance at the engine; never waits for the model."""
        with self._changed:
            is_running = self._running is not None
            return EngineState(
                waiting=len(self._waiting),
                running=int(is_running),
                alive=self._thread.is_alive(),
                step_age_s=time.monotonic() - self._last_step_s if is_running else 0.0,
                draining=self._draining,
            )

    def drain(self) -> None:
        """Refuse new requests from now on; those already here are still answered."""
        with self._changed:
            self._draining = True
            self._changed.notify()

    def stop(self, *, within_s: float) -> None:
        """Drain, wait for what is left, then end every remaining request with an error. Safe to call again.

        Args:
            within_s: how long to wait before the error; the model's last step may take a little longer to return.
        """
        self.drain()
        self._thread.join(timeout=within_s)
        with self._changed:
            left = [ticket for ticket in self._waiting if ticket.future.set_running_or_notify_cancel()]
            self._waiting.clear()
            if self._running is not None:
                left.append(self._running)
                self._running = None
        if left:
            for ticket in left:
                ticket.request.cancelled.set()
                ticket.future.set_exception(EngineError("the service stopped before this request was answered"))
            self._thread.join(timeout=_LAST_STEP_S)

    def _work(self) -> None:
        while (ticket := self._next()) is not None:
            outcome = self._answer(ticket)
            with self._changed:
                if self._running is not ticket:
                    continue  # `stop` took it and has ended it
                self._running = None
            if isinstance(outcome, EngineError):
                ticket.future.set_exception(outcome)
            else:
                ticket.future.set_result(outcome)

    def _next(self) -> _Ticket | None:
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._draining)
                if not self._waiting:
                    return None
                ticket = self._waiting.popleft()
                # From here on the future cannot be cancelled any more, so ending it cannot fail.
                if ticket.future.set_running_or_notify_cancel():
                    self._beat()
                    self._running = ticket
                    return ticket

    def _take_cancelled(self) -> list[_Ticket]:
        """Take those whose client left out of the queue; returns the ones whose future still has to end."""
        left = [ticket for ticket in self._waiting if ticket.gone]
        for ticket in left:
            self._waiting.remove(ticket)
        return [ticket for ticket in left if ticket.future.set_running_or_notify_cancel()]

    def _answer(self, ticket: _Ticket) -> Completion | EngineError:
        started_s = time.monotonic()
        if ticket.request.cancelled.is_set():
            return unanswered(ticket.arrived_s)
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
            return EngineError(f"the model failed on this request: {type(error).__name__}")
        self._last_duration_s = time.monotonic() - started_s
        return completion

    def _beat(self) -> None:
        self._last_step_s = time.monotonic()
