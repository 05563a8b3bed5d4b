"""What completions and chats have in common in a request."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from anysize.api.schemas import BudgetIn
from anysize.engine.request import Sampling

_MAX_INT = (1 << 63) - 1

_Stop = Annotated[str, Field(min_length=1, max_length=256)]


class OpenAIBody(BaseModel):
    """JSON whose unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _nothing(value: Any) -> Any:
    if value:
        raise ValueError("this is not supported here; leave it out")
    return value


NotSupported = AfterValidator(_nothing)
_Penalty = Annotated[float | None, NotSupported, Field(description="nothing but 0 is supported")]


class StreamOptions(OpenAIBody):
    """What a stream has beside the text."""

    include_usage: bool | None = Field(default=None, description="a last chunk with the tokens in and out")
    include_obfuscation: Literal[False] | None = None


class Options(OpenAIBody):
    """Fields of both routes; null is the default of each."""

    model: str = Field(max_length=1024, description="family's name, `NAME@FRACTION` or `NAME@VARIANT`")
    budget: BudgetIn | None = Field(default=None, description="as in POST /generate; not OpenAI's")
    resize: bool | None = Field(default=None, description="as in POST /generate; not OpenAI's")
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=100, description="1 by default; 0 takes the likeliest")
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=1_000_000, description="0 and -1 keep all; not OpenAI's")
    min_p: float | None = Field(default=None, ge=0, le=1, description="not OpenAI's")
    repetition_penalty: float | None = Field(default=None, ge=0.1, le=10, description="not OpenAI's")
    seed: int | None = Field(default=None, ge=0, le=_MAX_INT)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    n: int | None = Field(default=None, ge=1, le=16)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: _Penalty = None
    presence_penalty: _Penalty = None
    logit_bias: Annotated[dict[str, Any] | None, NotSupported, Field(description="not supported")] = None
    user: str | None = Field(default=None, description="taken, and not used")

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream")
        if self.resize and self.samples > 1:
            raise ValueError("resize needs several sizes for one answer: leave out n")
        if self.budget is not None and self.budget.total_ms is not None and self.longest is None:
            raise ValueError("budget.total_ms needs max_tokens, because it bounds the whole answer")
        return self

    @property
    def longest(self) -> int | None:
        """The most tokens of an answer, where the request says so."""
        return self.max_tokens

    @property
    def samples(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends in a chunk of usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling(self, *, max_tokens: int, logprobs: int | None) -> Sampling:
        """How tokens are picked, as the engine knows it."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            seed=self.seed,
            stop=stop,
            logprobs=logprobs,
        )
