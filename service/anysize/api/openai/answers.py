"""What both routes say of an answer beside its text."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel

from anysize.api.answer import ChosenVariant, SpanOut, TimingOut, sizes_of
from anysize.api.answering import Prepared
from anysize.api.openai.models import model_name
from anysize.engine.request import Completion, FinishReason, Timing
from anysize.family.family import Family

Finish = Literal["stop", "length", "tool_calls"]


class CachedTokens(BaseModel):
    """Prompt tokens that were known from requests before."""

    cached_tokens: int


class OpenAIUsage(BaseModel):
    """Tokens in and out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens

    @classmethod
    def of(cls, prepared: Sequence[Prepared], completions: Sequence[Completion]) -> Self:
        """Of all prompts together."""
        prompt = sum(len(one.request.prompt_ids) for one in prepared)
        completion = sum(one.completion_tokens for one in completions)
        cached = sum(one.cached_tokens for one in completions)
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details=CachedTokens(cached_tokens=cached),
        )


class AnysizeOut(BaseModel):
    """Which size answered, as in `GenerateOut`, and how long it took; of several prompts the longest times."""

    variant: ChosenVariant
    timing: TimingOut
    wanted: str | None = None
    sizes: list[SpanOut] | None = None
    budget_kept: bool | None = None

    @classmethod
    def of(cls, prepared: Sequence[Prepared], completions: Sequence[Completion]) -> Self:
        """Of an answer."""
        promise = prepared[0].promise
        promised: dict[str, Any] = {"budget_kept": promise.is_expected} if promise else {}
        timings = [one.timing for one in completions]
        longest = Timing(
            queue_ms=max(one.queue_ms for one in timings),
            ttft_ms=max(one.ttft_ms for one in timings),
            tpot_ms=max((one.tpot_ms for one in timings if one.tpot_ms is not None), default=None),
            total_ms=max(one.total_ms for one in timings),
        )
        return cls(
            variant=ChosenVariant.of(completions[0].size),
            timing=TimingOut.of(longest, promise),
            **sizes_of(prepared[0].request, completions[0]),
            **promised,
        )


@dataclass(frozen=True, slots=True)
class Head:
    """What every chunk and every answer begins with.

    Attributes:
        id: of the answer.
        model: the size that answers; the family, where the load may have its say.
        created: Unix time in seconds.
    """

    id: str
    model: str
    created: int

    @classmethod
    def of(cls, id_: str, family: Family, prepared: Sequence[Prepared]) -> Self:
        """Of an answer that begins now."""
        request = prepared[0].request
        name = model_name(family, request.size) if len(request.sizes) == 1 else family.name
        return cls(id_, name, int(time.time()))

    def fields(self) -> dict[str, Any]:
        """As they are in JSON."""
        return {"id": self.id, "model": self.model, "created": self.created}


def finish_of(reason: FinishReason, *, has_called: bool = False) -> Finish:
    """Why an answer ended; one that was cut off because its client left is told to nobody."""
    if reason != "stop":
        return "length"
    return "tool_calls" if has_called else "stop"


def token_bytes(text: str) -> list[int] | None:
    """The bytes of a token; None where it is part of a character."""
    return None if "\ufffd" in text else list(text.encode(errors="replace"))
