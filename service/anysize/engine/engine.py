"""The engine: the one thread that runs the model, and what other threads may ask of it.

Each submitted request ends in exactly one way: its future gets a `Completion` or an error. The model and its pages
belong to the model thread alone; whoever else ends a request leaves its pages to that thread, which gives them back
before its next step.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Event, Thread

from anysize.engine.batch import Batch
from anysize.engine.job import Share
from anysize.engine.ledger import Ledger, end
from anysize.engine.limits import Limits
from anysize.engine.request import Completion, GenerationRequest
from anysize.engine.stepper import StepModel
from anysize.engine.ticket import OnPiece, Ticket
from anysize.engine.workload import Load, StepRow
from anysize.errors import EngineError
from anysize.family.family import Family

logger = logging.getLogger(__name__)

# A thread that is cut off inside a step can bring the whole process down at exit.
_LAST_STEP_S = 5.0
_MAX_WATCH_S = 1.0


@dataclass(frozen=True, slots=True)
class EngineState:
    """A glance at the engine.

    Attributes:
        waiting: requests in the queue.
        running: requests that the model works on.
        alive: whether the model thread runs.
        step_age_s: time since the model last finished a step; 0 when it has nothing to do.
        stuck: whether that is longer than a step may take.
        draining: whether new requests are refused for good, or are about to be.
        pressure: how far down the way to its floor whoever allows it is sent, from 0 to 1.
    """

    waiting: int
    running: int
    alive: bool
    step_age_s: float
    stuck: bool
    draining: bool
    pressure: float

    @property
    def is_ready(self) -> bool:
        """Whether new requests are taken."""
        return self.alive and not self.draining and not self.stuck


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step that the model has run.

    Attributes:
        rows: the answers that it moved, as they were before it.
        duration_s: of the model alone.
        whole_s: from the end of the step before it, or from when there was something to do again, to its own: what
            answers wait between two tokens.
    """

    rows: tuple[StepRow, ...]
    duration_s: float
    whole_s: float

    @property
    def answers(self) -> int:
        """How many answers it moved."""
        return len(self.rows)

    @property
    def tokens(self) -> int:
        """Of prompts and answers together."""
        return sum(row.tokens for row in self.rows)


class Engine:
    """Answers requests of every size side by side.

    Args:
        family: what is served.
        model: runs steps over the family's bank.
        limits: of the queue and of a step.
        queue_timeout_s: how long a request may wait for its turn.
        stall_s: how long one step may take before every request is ended with an error.
        on_step: told of each step, on the model thread.
    """

    def __init__(
        self,
        family: Family,
        model: StepModel,
        limits: Limits,
        *,
        queue_timeout_s: float = float("inf"),
        stall_s: float = float("inf"),
        on_step: Callable[[StepReport], None] | None = None,
    ) -> None:
        self._batch = Batch(family, model)
        self._ledger = Ledger(limits, model, queue_timeout_s)
        self._stall_s = stall_s
        self._on_step = on_step
        self._changed = Condition()
        self._is_leaving = False
        self._is_draining = False
        self._is_dead = False
        self._is_busy = False
        self._last_step_s = time.monotonic()
        self._done = Event()
        self._thread = Thread(target=self._work, name="anysize-engine", daemon=True)
        self._watchdog = Thread(target=self._watch, name="anysize-watchdog", daemon=True)

    def start(self) -> None:
        """Start the model thread, and the one that watches it."""
        self._thread.start()
        self._watchdog.start()

    def check_room(self) -> None:
        """Raise what `submit` would raise for the smallest request, so that a full queue costs nobody a tokenizer."""
        self._enter(None)

    def submit(self, request: GenerationRequest, on_piece: OnPiece | None = None) -> "Future[Completion]":
        """Queue a request.

        Args:
            request: what to answer.
            on_piece: given each piece of text on the model thread; must not block. What it raises ends the request.

        Returns:
            A future that ends in a `Completion`; in `EngineError` if the model failed or the engine stopped; in
            `OverloadedError` if its turn did not come in time.

        Raises:
            OverloadedError: the queue is full.
            RequestError: it needs more tokens than may ever wait, or than the KV pages of this service hold.
            EngineError: the engine is stopping, dead or stuck.
        """
        ticket = Ticket.of(request, on_piece, time.monotonic())
        self._ledger.check_size(ticket)
        self._enter(ticket)
        return ticket.future

    def state(self) -> EngineState:
        """A glance at the engine; never waits for the model."""
        with self._changed:
            return EngineState(
                waiting=self._ledger.waiting,
                running=self._ledger.running,
                alive=self._thread.is_alive() and not self._is_dead,
                step_age_s=self._step_age_s(),
                stuck=self._is_stuck(),
                draining=self._is_draining or self._is_leaving,
                pressure=self._ledger.pressure,
            )

    def load(self) -> Load:
        """All that the engine has before it; never waits for the model."""
        with self._changed:
            return self._ledger.load()

    def announce_stop(self) -> None:
        """Show in `state` that the end is near. Takes no lock, so that a signal handler may call it."""
        self._is_leaving = True

    def drain(self) -> None:
        """Refuse new requests from now on; those already here are still answered."""
        with self._changed:
            self._is_draining = True
            self._changed.notify()

    def stop(self, *, within_s: float) -> None:
        """Drain, wait for what is left, then end every remaining request with an error. Safe to call again.

        Args:
            within_s: how long to wait before the error; the model's last step may take a little longer to return.
        """
        self.drain()
        self._thread.join(timeout=within_s)
        self._end_all("the service stopped before this request was answered")
        self._thread.join(timeout=_LAST_STEP_S)

    def _enter(self, ticket: Ticket | None) -> None:
        tokens = ticket.waiting_tokens if ticket else 1
        with self._changed:
            self._check_open()
            endings = self._ledger.make_room(tokens)
            refusal = self._ledger.refusal(tokens)
            if ticket and not refusal:
                self._ledger.enter(ticket)
                self._changed.notify()
        end(endings)
        if refusal:
            raise refusal

    def _check_open(self) -> None:
        if self._is_dead:
            raise EngineError("the model thread has died; the service must be started again")
        if self._is_draining:
            raise EngineError("the service is stopping and takes no new requests")
        if self._is_stuck():
            raise EngineError("the model is stuck and takes no new requests")

    def _work(self) -> None:
        try:
            while (shares := self._next_step()) is not None:
                self._run(shares)
        except BaseException:
            logger.critical("the model thread has died", exc_info=True)
            self._is_dead = True
            self._end_all("the model thread has died")
        finally:
            self._done.set()

    def _next_step(self) -> list[Share[Ticket]] | None:
        """Wait for something to do; None once there is nothing left and nothing more will come."""
        while True:
            with self._changed:
                if not self._is_busy:
                    self._last_step_s = time.monotonic()
                endings = self._ledger.weed()
                shares, lost = self._ledger.plan()
                endings += lost
                is_idle = self._ledger.is_idle
                self._is_busy = not is_idle
                if is_idle and not endings:
                    self._ledger.check_pages()
                    if self._is_draining:
                        return None
                    self._changed.wait()
            end(endings)
            if shares:
                return shares

    def _run(self, shares: list[Share[Ticket]]) -> None:
        started_s = self._last_step_s
        outcome = self._batch.run(shares)
        rows = tuple(share.row for share in outcome.ran)
        with self._changed:
            self._last_step_s = time.monotonic()
            whole_s = self._last_step_s - started_s
            endings = self._ledger.settle(outcome)
        end(endings)
        if self._on_step and rows:
            self._on_step(StepReport(rows, outcome.duration_s, whole_s))
        if outcome.is_broken:
            raise EngineError("the model fails on whatever it is given")

    def _watch(self) -> None:
        """End everything if a step does not come back: what waits for it would wait for ever."""
        while not self._done.wait(min(_MAX_WATCH_S, self._stall_s / 4)):
            with self._changed:
                is_stuck = self._is_stuck()
            if is_stuck and self._end_all("the model is stuck"):
                logger.critical("a step has taken longer than %g s", self._stall_s)

    def _end_all(self, why: str) -> int:
        """End every request with an error, from any thread; returns how many there were."""
        with self._changed:
            endings = self._ledger.end_all(EngineError(why))
        end(endings)
        return len(endings)

    def _step_age_s(self) -> float:
        return time.monotonic() - self._last_step_s if self._is_busy else 0.0

    def _is_stuck(self) -> bool:
        return self._step_age_s() > self._stall_s
