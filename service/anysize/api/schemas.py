"""The JSON of the HTTP interface. Unknown fields are refused, every number has a maximum."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from anysize.engine.request import Sampling
from anysize.family.family import Family, Size
from anysize.sizing.budget import Budget
from anysize.sizing.planner import Planner

_MAX_INT = (1 << 63) - 1
_MAX_CHARS = 10_000_000
SHOWN_BATCHES = (1, 4, 16)
_SHOWN_STORED = 256

# More than anybody waits; a number that is none, or has no end, is refused.
Milliseconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]

_Stop = Annotated[str, Field(min_length=1, max_length=256)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BudgetIn(_Body):
    """Bounds on the size that answers and on its times; the largest served size inside all of them is taken."""

    parameters: int | None = Field(default=None, ge=1, le=_MAX_INT, description="inference parameters")
    min_parameters: int | None = Field(
        default=None,
        ge=1,
        le=_MAX_INT,
        description="inference parameters at least; under load any size from there on may answer",
    )
    fraction: float | None = Field(default=None, gt=0, le=1, description="share of the teacher's inference parameters")
    memory_bytes: int | None = Field(
        default=None, ge=1, le=_MAX_INT, description="bytes of the size's distinct tensors"
    )
    ttft_ms: Milliseconds | None = Field(default=None, description="time to first token")
    tpot_ms: Milliseconds | None = Field(default=None, description="mean time between two tokens after the first")
    total_ms: Milliseconds | None = Field(default=None, description="time to last token; wants `max_tokens`")
    on_miss: Literal["smallest", "reject"] = Field(
        default="smallest",
        description="where no size is expected to keep the times: the smallest answers, and says so, or none",
    )

    def parsed(self) -> Budget:
        """The budget as the sizing floor knows it."""
        return Budget(
            parameters=self.parameters,
            min_parameters=self.min_parameters,
            fraction=self.fraction,
            memory_bytes=self.memory_bytes,
            ttft_ms=self.ttft_ms,
            tpot_ms=self.tpot_ms,
            total_ms=self.total_ms,
            or_reject=self.on_miss == "reject",
        )


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
    resize: bool = Field(
        default=False,
        description="whether the answer may change its size once it is under way, for its latency budget or the load, "
        "inside the budget; what comes after is what the new size makes of the tokens so far",
    )
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
        if self.resize and (self.variant is not None or self.n > 1):
            raise ValueError("resize needs several sizes for one answer: leave out variant and n")
        if self.budget is not None and self.budget.total_ms is not None and "max_tokens" not in self.model_fields_set:
            raise ValueError("budget.total_ms needs max_tokens, because it bounds the whole answer")
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


class QualityOut(BaseModel):
    """How good a size was found to be on a text, with weights of the kind that are served."""

    perplexity: float
    kl: float | None = Field(description="mean KL(teacher || size) of a token, in nats; null where it was not measured")
    dataset: str
    sha256: str = Field(description="of the text's bytes")


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
    quality: QualityOut | None = Field(description="null where it was not measured")
    predicted_tpot_ms: dict[int, float] | None = Field(
        default=None, description="milliseconds a token at batch 1, 4 and 16; where the machine has been calibrated"
    )

    @classmethod
    def of(cls, family: Family, size: Size, planner: Planner | None = None) -> "VariantOut":
        """From a size of a family, and whoever predicts its times, if anybody does."""
        variant, footprint, measured = size.variant, size.footprint, family.quality(size.variant)
        predicted: dict[str, Any] = {}
        if planner is not None:
            predicted["predicted_tpot_ms"] = {
                rows: round(planner.tpot_ms(variant, rows=rows, stored=_SHOWN_STORED), 3) for rows in SHOWN_BATCHES
            }
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
            quality=measured
            and QualityOut(
                perplexity=measured.perplexity,
                kl=measured.kl,
                dataset=measured.dataset,
                sha256=measured.dataset_sha256,
            ),
            **predicted,
        )


class VariantsOut(BaseModel):
    """The ladder of sizes, smallest first."""

    family: str
    blocks: list[list[int]] = Field(
        description="for each position, the teacher layers that its student layer stands for"
    )
    variants: list[VariantOut]

    @classmethod
    def of(cls, family: Family, planner: Planner | None = None) -> "VariantsOut":
        """From a family, and whoever predicts the times of its sizes, if anybody does."""
        return cls(
            family=family.name,
            blocks=[list(block) for block in family.bank.blocks.blocks],
            variants=[VariantOut.of(family, size, planner) for size in family.ladder],
        )


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
