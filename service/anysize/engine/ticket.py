"""A request inside the engine: its place in the schedule, its answers, and the one future that ends it."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self

from anysize.engine.answer import Answer
from anysize.engine.job import Job
from anysize.engine.pace import LEAST_TOKENS
from anysize.engine.request import Choice, Completion, GenerationRequest, Piece, Timing
from anysize.errors import AnysizeError
from anysize.family.family import Size
from anysize.family.variant import Variant

OnPiece = Callable[[Piece], None]


@dataclass(slots=True, kw_only=True, eq=False)
class Ticket(Job):
    """One submitted request.

    Attributes:
        request: what was asked.
        future: ends exactly once, in a `Completion` or an error.
        on_piece: given each piece of text on the model's thread, where the client streams.
        arrived_s: `time.monotonic()` at submission.
        started_s: at the step that ran its first tokens.
        answers: those that have been started, by their number.
        is_over: whether somebody has decided how it ends; whoever sets this, under the engine's lock, ends the future.
    """

    request: GenerationRequest
    on_piece: OnPiece | None
    arrived_s: float
    future: "Future[Completion]" = field(default_factory=Future, init=False)
    started_s: float | None = field(default=None, init=False)
    answers: dict[int, Answer] = field(default_factory=dict, init=False)
    is_over: bool = field(default=False, init=False)
    _is_claimed: bool | None = field(default=None, init=False)  # None before it is tried, which is once

    @classmethod
    def of(cls, request: GenerationRequest, on_piece: OnPiece | None, arrived_s: float) -> Self:
        """For a request that has just come."""
        return cls(
            request=request,
            variants=tuple(size.variant for size in request.sizes),
            top=request.sizes.index(request.size),
            prompt_tokens=len(request.prompt_ids),
            max_tokens=request.sampling.max_tokens,
            samples=request.samples,
            prompt_ids=request.prompt_ids,
            is_resizable=request.is_resizable,
            on_piece=on_piece,
            arrived_s=arrived_s,
        )

    @property
    def is_unwanted(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.request.cancelled.is_set() or self.future.cancelled()

    @property
    def is_answered(self) -> bool:
        """Whether each of its answers is over."""
        return len(self.answers) == self.samples and all(answer.is_over for answer in self.answers.values())

    def size_of(self, variant: Variant) -> Size:
        """The size of one of its variants."""
        return next(size for size in self.request.sizes if size.variant == variant)

    def token_ids(self, sample: int) -> list[int]:
        """The prompt, and what has been generated of one of the answers."""
        answer = self.answers.get(sample)
        return [*self.prompt_ids, *answer.token_ids] if answer and answer.token_ids else self.request.prompt_ids

    def keep_pace(self, now_s: float) -> None:
        """Ask for a smaller size, or for a larger one again, where the times of the first answer speak for it."""
        answer = self.answers.get(0)
        if answer is None or answer.is_over or answer.tokens_on_size < LEAST_TOKENS:
            return
        assert answer.first_s is not None
        assert answer.last_s is not None
        assert answer.size_since_s is not None
        tokens = len(answer.token_ids)
        turn = self.request.pace.turn(
            mean_ms=1e3 * (answer.last_s - answer.first_s) / (tokens - 1),
            recent_ms=1e3 * (answer.last_s - answer.size_since_s) / (answer.tokens_on_size - 1),
            elapsed_ms=1e3 * (now_s - self.arrived_s),
            tokens=tokens,
            left=self.max_tokens - tokens,
        )
        self.top = min(max(self.top + turn, 0), len(self.variants) - 1)

    def claim(self) -> bool:
        """Take the future, which cannot be cancelled from then on; False if that has already happened."""
        if self._is_claimed is None:
            self._is_claimed = self.future.set_running_or_notify_cancel()
        return self._is_claimed

    def end(self, outcome: Completion | AnysizeError) -> None:
        """End the future; called once, outside of any lock, because what waits for the future runs in here."""
        if not self.claim():
            return
        if isinstance(outcome, AnysizeError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def completion(self, now_s: float) -> Completion:
        """The answers as they stand; those that are not over are cancelled."""
        choices = [
            answer.choice() if (answer := self.answers.get(sample)) else _unstarted() for sample in range(self.samples)
        ]
        return Completion(
            choices=tuple(choices),
            timing=self._timing(now_s),
            size=first.size if (first := self.answers.get(0)) else self.request.size,
            cached_tokens=self.cached_tokens,
            resumed_tokens=self.resumed_tokens,
        )

    def _timing(self, now_s: float) -> Timing:
        started_s = now_s if self.started_s is None else self.started_s
        told = [answer for answer in self.answers.values() if answer.first_s is not None]
        first_s = min((answer.first_s for answer in told if answer.first_s is not None), default=now_s)
        gaps = sum(max(0, len(answer.token_ids) - 1) for answer in told)
        apart_s = sum((answer.last_s or 0) - (answer.first_s or 0) for answer in told)
        return Timing(
            queue_ms=1e3 * (started_s - self.arrived_s),
            ttft_ms=1e3 * (first_s - self.arrived_s),
            tpot_ms=1e3 * apart_s / gaps if gaps else None,
            total_ms=1e3 * (now_s - self.arrived_s),
        )


def _unstarted() -> Choice:
    return Choice(text="", token_ids=[], finish_reason="cancelled")
