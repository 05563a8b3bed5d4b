"""How many requests come at present, and what that makes of everybody's times if all of them are of one size.

A forecast from the present load alone lets each request take what is free now, and leaves nothing for those who come
next: in a burst all of them are late. So a size has to be one that the present traffic can be answered with for ever.
"""

import math
from dataclasses import dataclass
from threading import Lock

from anysize.engine.limits import Limits
from anysize.engine.workload import StepRow
from anysize.family.variant import Variant
from anysize.sizing.correction import Corrected
from anysize.sizing.load import Ask, Forecast

# Arrivals count for e-fold less after so long. Longer is later for each burst, shorter takes chance for one.
_MEMORY_S = 0.8
# The rate rises with what comes and falls e-fold in so long: where one answer of a batch is on the largest size, the
# others save little by being on smaller ones, so all of them had better stay small until a burst is over.
_RELEASE_S = 8.0
_WEIGHT = 0.1
_ROUNDS = 30
_SETTLED = 0.01


@dataclass(frozen=True, slots=True)
class Flow:
    """The present traffic.

    Attributes:
        answers_per_s: that are asked for, in the busiest of the last seconds.
        prompt_tokens: of one, on average.
        answer_tokens: likewise.
    """

    answers_per_s: float
    prompt_tokens: float
    answer_tokens: float


class Traffic:
    """What has come lately. May be used from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._weight = 0.0  # of all arrivals so far, at the time of the last
        self._last_s = 0.0
        self._seen = 0
        self._prompt_tokens = 0.0
        self._answer_tokens = 0.0
        self._rate_per_s = 0.0  # as of the last
        self._used = 1.0  # of the longest answers that were allowed, which share came

    def arrived(self, ask: Ask, now_s: float, *, is_alone: bool = False) -> None:
        """A request has come.

        One that comes while nobody else is there makes no crowd: so do the requests of a client that asks for one
        answer after another, however fast they follow each other.
        """
        with self._lock:
            gap_s = max(0.0, now_s - self._last_s)
            counted = self._weight * math.exp(-gap_s / _MEMORY_S)
            # What comes by chance comes in lumps: one standard deviation on top of what was counted.
            rate_per_s = (counted + math.sqrt(counted)) / _MEMORY_S
            self._rate_per_s = max(rate_per_s, self._rate_per_s * math.exp(-gap_s / _RELEASE_S))
            self._weight = counted + (0 if is_alone else ask.samples)
            self._last_s = max(now_s, self._last_s)
            self._seen += ask.samples
            share = max(_WEIGHT, ask.samples / self._seen)
            self._prompt_tokens += share * (ask.prompt_tokens - self._prompt_tokens)
            self._answer_tokens += share * (ask.max_tokens - self._answer_tokens)

    def answered(self, *, tokens: int, most: int) -> None:
        """An answer has ended with so many tokens, of at most so many."""
        with self._lock:
            self._used += _WEIGHT * (tokens / most - self._used)

    def flow(self) -> Flow:
        """As of the last arrival, which does not count.

        What comes by chance comes in lumps, so the rate is that of one standard deviation above what was counted.
        """
        with self._lock:
            counted = max(0.0, self._weight - 1)
            return Flow(
                (counted + math.sqrt(counted)) / _MEMORY_S,
                self._prompt_tokens,
                max(1.0, self._used * self._answer_tokens),
            )


def steady(model: Corrected, limits: Limits, variant: Variant, ask: Ask, flow: Flow, ceiling_ms: float) -> Forecast:
    """Times of a request where everybody has its size and requests come as they do, for ever.

    As many answers run as come in the time that one takes, and each step carries the prompts that come during it. The
    time of a step follows from both and they from it; it is found by going up from that of an empty engine.

    Args:
        model: predicts steps.
        limits: of the scheduler.
        variant: the size.
        ask: the request.
        flow: the traffic beside it.
        ceiling_ms: a step is not looked at further once it takes longer.

    Returns:
        Times; without end where a step would take longer than the ceiling, or more answers would have to run than may.
    """
    step_ms, prompt_ms, running = 0.0, 0.0, 1.0
    stored = int(flow.prompt_tokens + flow.answer_tokens / 2)
    row = StepRow(variant, 1, stored, True)
    for _ in range(_ROUNDS):
        running = 1 + flow.answers_per_s * flow.answer_tokens * step_ms / 1e3
        prompt_tokens = round(flow.answers_per_s * flow.prompt_tokens * step_ms / 1e3)
        if running > limits.max_running_requests or prompt_tokens + running > limits.max_step_tokens:
            return _ENDLESS
        rows = [row] * round(running)
        prompts = [StepRow(variant, prompt_tokens, 0, False)] if prompt_tokens else []
        before_ms, step_ms = step_ms, model.step_ms([*rows, *prompts])
        if step_ms > ceiling_ms:
            return _ENDLESS
        if step_ms - before_ms < _SETTLED * step_ms:
            break
    chunks = range(0, ask.prompt_tokens, limits.prefill_chunk_tokens)
    for start in chunks:
        tokens = min(limits.prefill_chunk_tokens, ask.prompt_tokens - start)
        is_last = start + tokens >= ask.prompt_tokens
        prompt_ms += model.step_ms([StepRow(variant, tokens, start, is_last), *[row] * round(running - 1)])
    # A request comes in the middle of a step, on average.
    ttft_ms = prompt_ms + (step_ms / 2 if flow.answers_per_s else 0.0)
    gaps = ask.max_tokens - 1
    tpot_ms = step_ms if gaps else None
    return Forecast(ttft_ms, tpot_ms, ttft_ms + gaps * step_ms, len(chunks), len(chunks) + gaps)


_ENDLESS = Forecast(math.inf, math.inf, math.inf)
