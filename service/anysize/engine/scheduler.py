"""What runs next: the policy alone. Knows no clock, no tensor, no thread; its caller holds the lock.

First come, first started, and a started request is never set aside: its pages are reserved for its prompt and its
longest possible answer, so it needs nothing from anybody to come to its end. Each step runs one token of every request
that decodes, and what is left of the step's token limit goes to prompts, oldest first and in chunks.

Who allows several sizes is started on the one that the pressure leaves, or the largest below it that has pages. Who
allows that too is moved on to another size between two tokens: what the new size has not stored is run like a prompt.
"""

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, Protocol

from anysize.engine.job import JobT, Run, Share, Step
from anysize.engine.limits import Limits
from anysize.engine.pace import LEAST_TOKENS
from anysize.engine.pressure import Pressure
from anysize.engine.workload import Load, Underway
from anysize.family.variant import Variant

logger = logging.getLogger(__name__)

_FEW_RUNS = 4


class Place(Protocol):
    """A sequence as the scheduler sees it.

    Attributes:
        variant: the size that it runs on.
        length: tokens that are stored; those of a prompt that is known already are from the start.
        border: no share of a step may lead from before it to behind it.
    """

    @property
    def variant(self) -> Variant: ...  # noqa: D102  (see Attributes)

    @property
    def length(self) -> int: ...  # noqa: D102  (see Attributes)

    @property
    def border(self) -> int: ...  # noqa: D102  (see Attributes)


class Pages(Protocol):
    """Who hands out KV pages."""

    def keeps(self, prompt_tokens: int) -> bool:
        """Whether a second prompt like one of so many tokens would find it known once it has been run."""
        ...

    def reserve(
        self, variant: Variant, tokens: int, prompt_ids: Sequence[int] = (), *, keeps_answer: bool = False
    ) -> Any | None:
        """A `Place` for a sequence of at most `tokens` tokens that begins so; None if pages are short now.

        With `keeps_answer` it is of use to other sizes as a whole, and not its prompt alone.
        """
        ...

    def move(self, sequence: Any, variant: Variant, tokens: int, token_ids: Sequence[int]) -> Any | None:
        """A `Place` for the same tokens on another size, in place of one that is there.

        If pages are short it may be one on the same size as before; None leaves everything as it was. Otherwise, and if
        this raises, the one that was there is released.
        """
        ...

    def release(self, sequence: Any) -> None:
        """Give the pages of a sequence back."""
        ...


class Scheduler(Generic[JobT]):
    """Waiting and running requests, and the next step.

    Args:
        limits: see there; all of them hold at any time.
        pages: reserved before a run starts, released when it ends, by this object alone.
    """

    def __init__(self, limits: Limits, pages: Pages) -> None:
        assert limits.max_running_requests < limits.max_step_tokens, "a full batch must leave a prompt room to move"
        self._limits = limits
        self._pages = pages
        self._pressure = Pressure(limits)
        # A job whose first answers run while others wait stands at the head until the last has been started.
        self._queue: deque[JobT] = deque()
        self._queued_tokens = 0
        self._running: list[Run[JobT]] = []

    @property
    def waiting(self) -> list[JobT]:
        """Jobs of which nothing runs yet, first come first."""
        return [job for job in self._queue if not job.started]

    @property
    def waiting_count(self) -> int:
        """How many they are."""
        return len(self._queue) - bool(self._queue and self._queue[0].started)

    @property
    def waiting_tokens(self) -> int:
        """Tokens of everything that has not been started."""
        return self._queued_tokens

    @property
    def running(self) -> list[Run[JobT]]:
        """Runs in the order they were started."""
        return list(self._running)

    @property
    def pressure(self) -> float:
        """How far down the way to its floor whoever allows it is sent, from 0 to 1."""
        return self._pressure.level

    @property
    def load(self) -> Load:
        """All that is left to run."""
        waiting = (
            Underway(job.variants[self._pressure.pick(job.top)], job.prompt_tokens, 0, job.max_tokens)
            for job in self._queue
            for _ in range(job.samples - job.started)
        )
        return Load(tuple(run.underway for run in self._running), tuple(waiting))

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._queue and not self._running

    def has_room(self, tokens: int) -> bool:
        """Whether a job of so many tokens may wait now."""
        return (
            self.waiting_count < self._limits.max_queued_requests
            and self._queued_tokens + tokens <= self._limits.max_queued_tokens
        )

    def add(self, job: JobT) -> None:
        """Put a job into the queue, which has room for it."""
        assert self.has_room(job.waiting_tokens)
        self._queue.append(job)
        self._queued_tokens += job.waiting_tokens
        self._observe()

    def plan(self) -> Step[JobT]:
        """The next step; starts runs where there is room, and moves one that runs to another size."""
        self._observe()
        lost = self._resize()
        step = Step([Share(run, 1) for run in self._running if run.decodes], lost)
        budget = self._limits.max_step_tokens - len(step.shares)
        for run in self._running:
            if not run.decodes and budget > 0:
                step.shares.append(share := self._chunk(run, budget))
                budget -= share.tokens
        while budget > 0 and (run := self._start(step)) is not None:
            step.shares.append(share := self._chunk(run, budget))
            budget -= share.tokens
        assert step.shares or not self._queue, "an empty engine has pages for whoever is first"
        return step

    def ran(self, share: Share[JobT]) -> None:
        """The model has run a share."""
        share.run.ran_tokens += share.tokens
        assert share.run.ran_tokens <= share.run.job.sequence_tokens

    def finish(self, run: Run[JobT]) -> None:
        """A run is over: its pages go back."""
        self._running.remove(run)
        self._pages.release(run.sequence)

    def drop(self, job: JobT) -> None:
        """Forget a job, wherever it is; its pages go back."""
        self.drop_waiting(job)
        for run in [run for run in self._running if run.job is job]:
            self.finish(run)

    def drop_waiting(self, job: JobT) -> None:
        """Forget what waits of a job, if anything does; touches no pages."""
        if job in self._queue:
            self._queue.remove(job)
            self._queued_tokens -= job.waiting_tokens

    def late(self, now_s: float) -> list[JobT]:
        """Jobs of which nothing runs although their deadline has passed."""
        return [job for job in self.waiting if job.deadline_s <= now_s]

    def _chunk(self, run: Run[JobT], budget: int) -> Share[JobT]:
        border = run.border if run.ran_tokens < run.border else run.given_tokens
        return Share(run, min(border - run.ran_tokens, self._limits.prefill_chunk_tokens, budget))

    def _start(self, step: Step[JobT]) -> Run[JobT] | None:
        """Start the first in the queue; None if nobody waits or slots or pages are short. Nobody overtakes."""
        while self._queue and len(self._running) < self._limits.max_running_requests:
            job = self._queue[0]
            if job.started and self._waits_for_its_prompt(job):
                return None
            try:
                sequence = self._place(job)
            except Exception:
                logger.exception("reserving pages failed")
                self.drop(job)
                step.shares = [share for share in step.shares if share.run.job is not job]
                step.lost.append(job)
                continue
            if sequence is None:
                return None
            run = Run(job, job.started, sequence.variant, sequence, job.prompt_tokens, sequence.length, sequence.border)
            if not job.started:
                job.cached_tokens = sequence.length
                job.resumed_tokens = max(0, sequence.border - sequence.length)
                if not job.is_resizable:
                    job.variants, job.top = (run.variant,), 0
            job.started += 1
            self._queued_tokens -= job.sequence_tokens
            if job.started == job.samples:
                self._queue.popleft()
            self._running.append(run)
            return run
        return None

    def _place(self, job: JobT) -> Any | None:
        """Room for an answer on the size that the pressure leaves it, or below where pages are short."""
        for variant in reversed(job.variants[: self._pressure.pick(job.top) + 1]):
            sequence = self._pages.reserve(variant, job.sequence_tokens, job.prompt_ids, keeps_answer=job.is_resizable)
            if sequence is not None:
                return sequence
        return None

    def _observe(self) -> None:
        self._pressure.observe(
            running=len(self._running), waiting=self.waiting_count, waiting_tokens=self._queued_tokens
        )

    def _resize(self) -> list[JobT]:
        """Move the run that has longest been on a size that is no longer its own; jobs that are lost thereby."""
        due = [
            run
            for run in self._running
            if run.job.is_resizable
            and run.tokens_on_size >= LEAST_TOKENS
            and run.variant != run.job.variants[self._pressure.pick(run.job.top)]
            and self._can_pay(run)
        ]
        if not due:
            return []
        run = max(due, key=lambda run: run.tokens_on_size)
        job, token_ids = run.job, run.job.token_ids(run.sample)
        wanted = job.variants[self._pressure.pick(job.top)]
        try:
            sequence = self._pages.move(run.sequence, wanted, job.sequence_tokens, token_ids)
        except Exception:
            logger.exception("moving a request to another size failed")
            self._running.remove(run)
            self.drop(job)
            return [job]
        if sequence is not None:
            run.variant, run.sequence, run.given_tokens = sequence.variant, sequence, len(token_ids)
            run.ran_tokens, run.border = sequence.length, sequence.border
        return []

    def _can_pay(self, run: Run[JobT]) -> bool:
        """Whether a move may bring more than it costs: what a run has so far is computed anew, and holds everybody up.

        A few runs wait for weights rather than for arithmetic, and hardly notice; in a crowd more has to be left of an
        answer than there is of it.
        """
        return len(self._running) <= _FEW_RUNS or 2 * run.ran_tokens <= run.job.sequence_tokens

    def _waits_for_its_prompt(self, job: JobT) -> bool:
        """Whether the next answer to a job had better wait until one before has run the prompt, and made it known."""
        runs = [run for run in self._running if run.job is job]
        return bool(runs) and self._pages.keeps(job.prompt_tokens) and not any(run.decodes for run in runs)
