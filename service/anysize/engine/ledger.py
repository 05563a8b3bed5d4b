"""Who waits, who runs, and how each ends. Its caller holds the engine's lock, and ends the futures without it."""

import logging
import time
from collections.abc import Iterable

from anysize.engine.batch import Outcome
from anysize.engine.job import Share
from anysize.engine.limits import Limits
from anysize.engine.request import Completion
from anysize.engine.scheduler import Scheduler
from anysize.engine.stepper import StepModel
from anysize.engine.ticket import Ticket
from anysize.engine.workload import Load
from anysize.errors import AnysizeError, EngineError, OverloadedError, RequestError

logger = logging.getLogger(__name__)

_MAX_RETRY_AFTER_S = 600

Ending = tuple[Ticket, Completion | AnysizeError]


class Ledger:
    """The tickets of one engine. Each of them is in one ending, of one of these methods, exactly once.

    Args:
        limits: see there.
        model: whose pages are handed out. Only the model thread may take or give back pages, so only that thread may
            call `weed`, `plan` and `settle`.
        queue_timeout_s: how long a request may wait for its turn.
    """

    def __init__(self, limits: Limits, model: StepModel, queue_timeout_s: float) -> None:
        self._limits = limits
        self._model = model
        self._queue_timeout_s = queue_timeout_s
        self._scheduler: Scheduler[Ticket] = Scheduler(limits, model)
        self._last_duration_s = 1.0

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._scheduler.waiting_count

    @property
    def running(self) -> int:
        """Requests that hold pages; one that another thread has ended does until the step is over."""
        return len({run.job for run in self._scheduler.running})

    @property
    def pressure(self) -> float:
        """How far down the way to its floor whoever allows it is sent, from 0 to 1."""
        return self._scheduler.pressure

    def load(self) -> Load:
        """All that is left to run."""
        return self._scheduler.load

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing holds pages."""
        return self._scheduler.is_idle

    def check_size(self, ticket: Ticket) -> None:
        """Refuse what could never run.

        Raises:
            RequestError: it needs more tokens than may ever wait, or than all KV pages hold.
        """
        if ticket.waiting_tokens > self._limits.max_queued_tokens:
            raise RequestError(
                f"prompt and answers may take {ticket.waiting_tokens} tokens, more than the "
                f"{self._limits.max_queued_tokens} that may wait in this service"
            )
        if not self._model.fits(ticket.variants[0], ticket.sequence_tokens):
            raise RequestError(
                f"prompt and answer may take {ticket.sequence_tokens} tokens, more than the KV cache of this service "
                f"holds for {ticket.request.sizes[0].id}"
            )

    def refusal(self, tokens: int) -> OverloadedError | None:
        """Why a request of so many tokens may not wait, if it may not."""
        if self._scheduler.has_room(tokens):
            return None
        message = f"{self.waiting} requests with {self._scheduler.waiting_tokens} tokens are waiting, as many as may"
        return OverloadedError(message, self._retry_after_s())

    def enter(self, ticket: Ticket) -> None:
        """Put a ticket into the queue, once nothing refuses it."""
        ticket.deadline_s = ticket.arrived_s + self._queue_timeout_s
        self._scheduler.add(ticket)

    def make_room(self, tokens: int) -> list[Ending]:
        """If the queue is full, end those in it who are no longer wanted: they must not keep others out."""
        if self._scheduler.has_room(tokens):
            return []
        now_s = time.monotonic()
        left = [ticket for ticket in self._scheduler.waiting if ticket.is_unwanted]
        return [ending for ticket in left for ending in self._over(ticket, _completed(ticket, now_s))]

    def weed(self) -> list[Ending]:
        """End who is no longer wanted or has waited for too long; give back the pages of those who have ended."""
        now_s = time.monotonic()
        endings: list[Ending] = []
        for ticket in self._tickets():
            if not ticket.is_over and ticket.is_unwanted:
                endings += self._over(ticket, _completed(ticket, now_s))
            if ticket.is_over:
                self._scheduler.drop(ticket)
        for ticket in self._scheduler.late(now_s):
            message = f"no turn came within the {self._queue_timeout_s:g} s that a request may wait"
            endings += self._over(ticket, OverloadedError(message, self._retry_after_s()))
        return endings

    def plan(self) -> tuple[list[Share[Ticket]], list[Ending]]:
        """The next step. Whoever cancelled at the very moment of its start is weeded next time."""
        now_s = time.monotonic()
        for run in self._scheduler.running:
            if run.job.is_resizable:
                run.job.keep_pace(now_s)
        step = self._scheduler.plan()
        for ticket in dict.fromkeys(share.run.job for share in step.shares):
            if ticket.claim() and ticket.started_s is None:
                ticket.started_s = now_s
        lost = EngineError("the model failed to reserve memory for this request")
        endings = [ending for ticket in step.lost for ending in self._over(ticket, lost)]
        return [share for share in step.shares if not share.run.job.is_unwanted], endings

    def settle(self, outcome: Outcome) -> list[Ending]:
        """Book a step that has been run."""
        now_s = time.monotonic()
        endings: list[Ending] = []
        for share in outcome.ran:
            self._scheduler.ran(share)
        for run in outcome.over:
            self._scheduler.finish(run)
        for ticket, error in outcome.failed.items():
            endings += self._over(ticket, error)
            self._scheduler.drop(ticket)
        for ticket in dict.fromkeys(run.job for run in outcome.over):
            if ticket.is_answered and not ticket.is_over:
                self._last_duration_s = now_s - (ticket.started_s or now_s)
                endings += self._over(ticket, _completed(ticket, now_s))
        return endings

    def end_all(self, error: AnysizeError) -> list[Ending]:
        """End everyone, from any thread; the pages of those who run are left to `weed`."""
        return [ending for ticket in self._tickets() for ending in self._over(ticket, error)]

    def check_pages(self) -> None:
        """Count the pages while nothing runs.

        Raises:
            EngineError: some are lost.
        """
        free, used, total = self._model.free_pages, self._model.used_pages, self._model.total_pages
        if used or free != total:
            raise EngineError(f"nothing runs, but of {total} KV pages {free} are free and {used} used")

    def _over(self, ticket: Ticket, outcome: Completion | AnysizeError) -> list[Ending]:
        """Decide how a ticket ends, if nobody has yet, and take it out of the queue if it is there."""
        self._scheduler.drop_waiting(ticket)
        if ticket.is_over:
            return []
        ticket.is_over = True
        return [(ticket, outcome)]

    def _tickets(self) -> list[Ticket]:
        return list(dict.fromkeys([*(run.job for run in self._scheduler.running), *self._scheduler.waiting]))

    def _retry_after_s(self) -> int:
        """When those who wait now will have had their turn, going by how long the last answer took."""
        rounds = self.waiting / max(1, len(self._scheduler.running))
        return min(max(1, round(self._last_duration_s * rounds)), _MAX_RETRY_AFTER_S)


def end(endings: Iterable[Ending]) -> None:
    """End the futures; without the lock, because whatever waits for them runs in here."""
    for ticket, outcome in endings:
        ticket.end(outcome)


def _completed(ticket: Ticket, now_s: float) -> Completion | EngineError:
    try:
        return ticket.completion(now_s)
    except Exception as error:
        logger.exception("request %s failed", ticket.request.id)
        return EngineError(f"the engine failed on this request: {type(error).__name__}")
