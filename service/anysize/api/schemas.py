"""The JSON of the HTTP interface. Unknown fields are refused, every number has a maximum."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from anysize.engine.request import Sampling
from anysize.family.family import Size
from anysize.sizing.budget import Budget

_MAX_INT = (1 << 63) - 1
_MAX_CHARS = 10_000_000

_Stop = Annotated[str, Field(min_length=1, max_length=256)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BudgetIn(_Body):
    """Upper bounds on the size that answers; the largest served size inside all of them is taken."""

    parameters: int | None = Field(default=None, ge=1, le=_MAX_INT, description="inference parameters")
    fraction: float | None = Field(default=None, gt=0, le=1, description="share of the teacher's inference parameters")
    memory_bytes: int | None = Field(
        default=None, ge=1, le=_MAX_INT, description="bytes of the size's distinct tensors"
    )

    def parsed(self) -> Budget:
        """The budget as the sizing floor knows it."""
        return Budget(parameters=self.parameters, fraction=self.fraction, memory_bytes=self.memory_bytes)


class Message(_Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=_MAX_CHARS)


class GenerateIn(_Body):
    """A prompt or messages, what the answer may cost, and how tokens are picked."""

    prompt: str | None = Field(default=None, min_length=1, max_length=_MAX_CHARS)
    messages: list[Message] | None = Field(default=None, min_length=1, max_length=1000)
    budget: BudgetIn | None = None
    variant: str | None = Field(default=None, max_length=1024, description="id of the variant that must answer")
    max_tokens: int = Field(default=128, ge=1, le=1_000_000)
    temperature: float = Field(default=0.0, ge=0, le=100, description="0 takes the likeliest token")
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, le=1_000_000, description="0 keeps all")
    min_p: float = Field(default=0.0, ge=0, le=1, description="share of the likeliest token's probability; 0 keeps all")
    repetition_penalty: float = Field(default=1.0, ge=0.1, le=10, description="1 does nothing")
    seed: int | None = Field(default=None, ge=0, le=_MAX_INT)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    logprobs: int | None = Field(
        default=None, ge=0, le=20, description="report each token's logprob, and those of so many of the likeliest"
    )
    n: int = Field(default=1, ge=1, le=16, description="answers to generate; answer k of a seeded request has seed + k")
    stream: bool = Field(default=False, description="answer with server-sent events as the text comes")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prompt": "The capital of France is", "budget": {"fraction": 0.8}, "max_tokens": 16}]
        }
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        if self.budget is not None and self.variant is not None:
            raise ValueError("give either budget or variant, not both")
        return self

    def sampling(self) -> Sampling:
        """How tokens are picked, as the engine knows it."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            stop=stop,
            logprobs=self.logprobs,
        )


class Owners(BaseModel):
    """Which of the two models contributes the ends of a variant."""

    embedding: Literal["student", "teacher"]
    norm: Literal["student", "teacher"]
    head: Literal["student", "teacher"]


class VariantOut(BaseModel):
    """One served size."""

    id: str
    parameters: int
    fraction: float
    distinct_parameters: int
    layers: int
    bytes: int
    patched: list[int]
    owners: Owners

    @classmethod
    def of(cls, size: Size) -> "VariantOut":
        """From a size."""
        variant, footprint = size.variant, size.footprint
        return cls(
            id=size.id,
            parameters=footprint.parameters,
            fraction=size.fraction,
            distinct_parameters=footprint.distinct_parameters,
            layers=size.layers,
            bytes=footprint.bytes,
            patched=list(variant.patched),
            owners=Owners(
                embedding=variant.embedding_owner.value,
                norm=variant.head_owner.value,
                head=variant.head_owner.value,
            ),
        )


class VariantsOut(BaseModel):
    """The ladder of sizes, smallest first."""

    family: str
    variants: list[VariantOut]


class ErrorDetail(BaseModel):
    """What went wrong."""

    type: str
    message: str
    field: str | None = None


class ErrorOut(BaseModel):
    """The one shape of every error."""

    error: ErrorDetail


class HealthOut(BaseModel):
    """Whether the engine lives, and what it is doing."""

    status: Literal["ok", "stalled", "dead"]
    waiting: int
    running: int
    step_age_s: float


class ReadyOut(BaseModel):
    """Whether new requests are taken."""

    ready: bool
    family: str
