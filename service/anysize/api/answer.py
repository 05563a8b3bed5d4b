"""The JSON of an answer: whole, or in the events of a stream. Fields with a default are set only where asked for."""

from functools import lru_cache
from typing import Any, Self, cast

from pydantic import BaseModel, Field

from anysize.engine.request import (
    Choice,
    Completion,
    FinishReason,
    GenerationRequest,
    Pick,
    Piece,
    Timing,
    TokenLogprob,
)
from anysize.family.family import Size
from anysize.family.pretrained import Tokenizer
from anysize.sizing.planner import Promise

# Bounded, although a vocabulary is anyway.
_MAX_REMEMBERED = 1 << 17


class TokenTexts:
    """The texts of single tokens, for logprobs.

    Args:
        tokenizer: of the family.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.of = lru_cache(maxsize=_MAX_REMEMBERED)(lambda token_id: cast(str, tokenizer.decode([token_id])))


class LogprobOut(BaseModel):
    """A token and the natural logarithm of its probability, before temperature and the other options."""

    token_id: int
    token: str
    logprob: float

    @classmethod
    def of(cls, one: TokenLogprob, texts: TokenTexts) -> Self:
        """From what the engine reports."""
        return cls(token_id=one.token_id, token=texts.of(one.token_id), logprob=one.logprob)


class TokenOut(LogprobOut):
    """A token of the answer, with the likeliest in its place."""

    top: list[LogprobOut]

    @classmethod
    def of_pick(cls, pick: Pick, texts: TokenTexts) -> Self:
        """From a picked token whose logprob was asked for."""
        assert pick.logprob is not None
        return cls(
            token_id=pick.token_id,
            token=texts.of(pick.token_id),
            logprob=pick.logprob,
            top=[LogprobOut.of(one, texts) for one in pick.top],
        )


class ChoiceOut(BaseModel):
    """One of several answers to a request."""

    index: int
    text: str
    finish_reason: FinishReason
    logprobs: list[TokenOut] | None = None


class PieceOut(BaseModel):
    """Text of an answer that is under way."""

    index: int
    text: str
    logprobs: list[TokenOut] | None = None

    @classmethod
    def of(cls, request: GenerationRequest, piece: Piece, texts: TokenTexts) -> Self:
        """From what the engine has pushed."""
        return cls(index=piece.sample, text=piece.text, **_logprobs(request, piece.picks, texts))


class ChosenVariant(BaseModel):
    """The size that answered."""

    id: str
    parameters: int
    fraction: float
    layers: int
    patched: list[int]

    @classmethod
    def of(cls, size: Size) -> Self:
        """From a size."""
        return cls(
            id=size.id,
            parameters=size.footprint.parameters,
            fraction=size.fraction,
            layers=size.layers,
            patched=list(size.variant.patched),
        )


class SpanOut(BaseModel):
    """A part of an answer that one size has generated."""

    variant: str
    tokens: int


class Usage(BaseModel):
    """Tokens in and out; `cached_tokens` are those of the prompt that were known from requests before."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total_tokens: int


class PredictedOut(BaseModel):
    """Times that were expected when the size was chosen, in milliseconds."""

    ttft_ms: float
    tpot_ms: float | None
    total_ms: float


class TimingOut(BaseModel):
    """Where the time went, in milliseconds; for a latency budget what was expected, and whether it was kept."""

    queue_ms: float
    ttft_ms: float
    tpot_ms: float | None
    total_ms: float
    predicted: PredictedOut | None = None
    kept: bool | None = None

    @classmethod
    def of(cls, timing: Timing, promise: Promise | None) -> Self:
        """From what was measured, and what was promised where there was a latency budget."""
        return cls(
            queue_ms=round(timing.queue_ms, 3),
            ttft_ms=round(timing.ttft_ms, 3),
            tpot_ms=None if timing.tpot_ms is None else round(timing.tpot_ms, 3),
            total_ms=round(timing.total_ms, 3),
            **(_promised(promise, timing) if promise else {}),
        )


class GenerateOut(BaseModel):
    """The answer; with `n` above 1 the first answer, and all of them in `choices`."""

    id: str
    text: str
    finish_reason: FinishReason
    variant: ChosenVariant
    usage: Usage
    timing: TimingOut
    logprobs: list[TokenOut] | None = None
    choices: list[ChoiceOut] | None = None
    wanted: str | None = Field(
        default=None,
        description="the variant that the budget alone would have given, where the load made it a smaller one",
    )
    sizes: list[SpanOut] | None = Field(
        default=None, description="the variants that generated the answer, in order, where it may change its size"
    )
    budget_kept: bool | None = Field(
        default=None, description="whether the size was expected to keep the latency budget, when it was chosen"
    )

    @classmethod
    def of(
        cls, request: GenerationRequest, completion: Completion, texts: TokenTexts, promise: Promise | None = None
    ) -> Self:
        """From a request, what the engine made of it, and what was promised where it had a latency budget."""
        prompt_tokens, completion_tokens = len(request.prompt_ids), completion.completion_tokens
        choices = [_choice(request, index, choice, texts) for index, choice in enumerate(completion.choices)]
        several: dict[str, Any] = {"choices": choices} if len(choices) > 1 else {}
        promised: dict[str, Any] = {"budget_kept": promise.is_expected} if promise else {}
        return cls(
            id=request.id,
            text=choices[0].text,
            finish_reason=choices[0].finish_reason,
            **_logprobs(request, completion.choices[0].picks, texts),
            **several,
            **promised,
            **sizes_of(request, completion),
            variant=ChosenVariant.of(completion.size),
            usage=Usage(
                prompt_tokens=prompt_tokens,
                cached_tokens=completion.cached_tokens,
                completion_tokens=completion_tokens,
                total_tokens=prompt_tokens + completion_tokens,
            ),
            timing=TimingOut.of(completion.timing, promise),
        )


def sizes_of(request: GenerationRequest, completion: Completion) -> dict[str, Any]:
    """`wanted` or `sizes`, where another size than the wanted one has answered, or may have."""
    if request.is_resizable:
        return {"sizes": [SpanOut(variant=span.size.id, tokens=span.tokens) for span in completion.choices[0].spans]}
    return {} if completion.size is request.size else {"wanted": request.size.id}


def _promised(promise: Promise, timing: Timing) -> dict[str, Any]:
    forecast = promise.forecast
    predicted = PredictedOut(
        ttft_ms=round(forecast.ttft_ms, 3),
        tpot_ms=None if forecast.tpot_ms is None else round(forecast.tpot_ms, 3),
        total_ms=round(forecast.total_ms, 3),
    )
    return {"predicted": predicted, "kept": promise.is_kept(timing)}


def _choice(request: GenerationRequest, index: int, choice: Choice, texts: TokenTexts) -> ChoiceOut:
    logprobs = _logprobs(request, choice.picks, texts)
    return ChoiceOut(index=index, text=choice.text, finish_reason=choice.finish_reason, **logprobs)


def _logprobs(request: GenerationRequest, picks: tuple[Pick, ...], texts: TokenTexts) -> dict[str, Any]:
    return {} if request.sampling.logprobs is None else {"logprobs": [TokenOut.of_pick(pick, texts) for pick in picks]}
