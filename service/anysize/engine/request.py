"""A request on its way through the engine, and what comes back. Plain data; knows nothing of HTTP."""

from dataclasses import dataclass, field
from threading import Event
from typing import Literal

from anysize.family.family import Size

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are picked and when to stop.

    Attributes:
        max_tokens: the most tokens to generate.
        temperature: 0 takes the likeliest token.
        top_p: keep the fewest tokens whose probabilities add up to this; 1 keeps all.
        top_k: keep this many of the likeliest tokens; 0 keeps all.
        seed: of this request alone; chance where None.
        stop: texts that end the answer and are not part of it.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt, the size that answers it, and how.

    Attributes:
        id: made by the service.
        prompt_ids: at least one token.
        size: the variant that answers.
        sampling: see there.
        cancelled: set by whoever no longer wants the answer; looked at between steps.
    """

    id: str
    prompt_ids: list[int]
    size: Size
    sampling: Sampling
    cancelled: Event = field(default_factory=Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where the time went, in milliseconds.

    Attributes:
        queue_ms: waiting for its turn.
        ttft_ms: from arrival to the first token.
        tpot_ms: mean time between two tokens after the first; None for a single token.
        total_ms: from arrival to the last token.
    """

    queue_ms: float
    ttft_ms: float
    tpot_ms: float | None
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The one terminal event of a request that did not fail."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    timing: Timing
