"""What a request may expect under a load: its steps are gone through beforehand, as the scheduler would plan them.

Requests take their turns first come first served, so whatever stands before a request does not depend on its size. What
nobody knows yet is left out: later requests, prompts that turn out to be known already, memory that is short. Answers
count as being as long as they may be, so that whoever waits for a place is told rather too much.
"""

import copy
from collections import deque
from dataclasses import dataclass, replace

from anysize.engine.limits import Limits
from anysize.engine.workload import Load, StepRow, Underway
from anysize.family.variant import Variant
from anysize.sizing.correction import Corrected
from anysize.sizing.margin import Margin


@dataclass(frozen=True, slots=True)
class Ask:
    """A request without its size.

    Attributes:
        prompt_tokens: at least one.
        max_tokens: of one answer, at least one.
        samples: how many answers.
    """

    prompt_tokens: int
    max_tokens: int
    samples: int = 1

    def on(self, variant: Variant) -> Underway:
        """One of its answers, on some size."""
        return Underway(variant, self.prompt_tokens, 0, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Times of one request, in milliseconds.

    Attributes:
        ttft_ms: from arrival to the first token.
        tpot_ms: mean time between two tokens after it; None where the answer has but one.
        total_ms: from arrival to the last token, if the answer is as long as it may be.
        ttft_steps, total_steps: steps of the engine in these times.
    """

    ttft_ms: float
    tpot_ms: float | None
    total_ms: float
    ttft_steps: int = 1
    total_steps: int = 1

    def at_most(self, margin: Margin) -> "Forecast":
        """The times that are kept in nineteen cases of twenty."""
        gaps = margin.over(self.total_steps - self.ttft_steps)
        return replace(
            self,
            ttft_ms=margin.over(self.ttft_steps) * self.ttft_ms,
            tpot_ms=None if self.tpot_ms is None else gaps * self.tpot_ms,
            total_ms=margin.over(self.total_steps) * self.total_ms,
        )


@dataclass(slots=True, eq=False)
class _Answer:
    """An answer on its way through the forecast."""

    variant: Variant
    prompt_left: int
    stored: int
    answer_left: int
    is_asked: bool = False

    @classmethod
    def of(cls, underway: Underway, *, is_asked: bool = False) -> "_Answer":
        return cls(underway.variant, underway.prompt_left, underway.stored, underway.answer_left, is_asked)

    def run(self, tokens: int) -> None:
        if self.prompt_left:
            self.prompt_left -= tokens
            self.answer_left -= not self.prompt_left
        else:
            self.answer_left -= tokens
        self.stored += tokens

    def row(self, tokens: int, *, later: int = 0) -> StepRow:
        return StepRow(self.variant, tokens, self.stored + later, wants_logits=tokens >= self.prompt_left)


class Outlook:
    """The steps until a request that comes now would get its turn; from there on `forecast` looks at each size.

    Args:
        model: predicts steps.
        limits: of the scheduler.
        load: what stands before the request.
    """

    def __init__(self, model: Corrected, limits: Limits, load: Load) -> None:
        self._model = model
        self._limits = limits
        self._running = [_Answer.of(one) for one in load.running if one.prompt_left or one.answer_left]
        self._queue = deque(_Answer.of(one) for one in load.waiting)
        self._elapsed_ms, self._steps = 0.0, 0
        while self._queue and not self._reaches_the_end():
            self._advance()

    def forecast(self, variant: Variant, ask: Ask) -> Forecast:
        """What a request on one size may expect."""
        ahead = copy.copy(self)
        ahead._running = [replace(one) for one in self._running]
        ahead._queue = deque(replace(one) for one in self._queue)
        asked = [_Answer.of(ask.on(variant), is_asked=True) for _ in range(ask.samples)]
        ahead._queue.extend(asked)
        while all(one.answer_left == ask.max_tokens for one in asked):
            ahead._advance()
        ttft_ms, ttft_steps = ahead._elapsed_ms, ahead._steps
        while any(one.answer_left for one in asked):
            ahead._advance()
        gaps = ask.max_tokens - 1
        tpot_ms = (ahead._elapsed_ms - ttft_ms) / gaps if gaps else None
        return Forecast(ttft_ms, tpot_ms, ahead._elapsed_ms, ttft_steps, ahead._steps)

    def _reaches_the_end(self) -> bool:
        """Whether the next step starts whoever comes after the queue."""
        everyone = [*self._running, *self._queue]
        tokens = sum(min(one.prompt_left, self._limits.prefill_chunk_tokens) or 1 for one in everyone)
        return len(everyone) < self._limits.max_running_requests and tokens < self._limits.max_step_tokens

    def _advance(self) -> None:
        """Run the next step, or several that are alike."""
        shares = [(one, 1) for one in self._running if not one.prompt_left]
        budget = self._limits.max_step_tokens - len(shares)
        for one in self._running:
            if one.prompt_left and budget > 0:
                budget -= self._give(one, budget, shares)
        while self._queue and budget > 0 and len(self._running) < self._limits.max_running_requests:
            self._running.append(one := self._queue.popleft())
            budget -= self._give(one, budget, shares)
        is_moving = any(one.prompt_left for one, _ in shares)
        steps = 1 if is_moving else min(one.answer_left for one, _ in shares)
        self._elapsed_ms += steps * self._model.step_ms(one.row(tokens, later=steps // 2) for one, tokens in shares)
        self._steps += steps
        for one, tokens in shares:
            one.run(tokens if is_moving else steps)
        self._running = [one for one in self._running if one.prompt_left or one.answer_left]

    def _give(self, one: _Answer, budget: int, shares: list[tuple[_Answer, int]]) -> int:
        tokens = min(one.prompt_left, self._limits.prefill_chunk_tokens, budget)
        shares.append((one, tokens))
        return tokens
