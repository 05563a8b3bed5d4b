"""A request on its way through the engine, and what comes back. Plain data; knows nothing of HTTP."""

from dataclasses import dataclass, field
from threading import Event
from typing import Literal

from anysize.engine.grammar import Grammar
from anysize.engine.pace import Pace
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
        min_p: keep tokens at least this share as likely as the likeliest; 0 keeps all.
        repetition_penalty: above 1 makes tokens that the prompt or the answer has already less likely; 1 does nothing.
        seed: of this request alone, below 2**63; chance where None.
        stop: texts that end the answer and are not part of it.
        logprobs: how many of the likeliest tokens to report beside each chosen one; None reports nothing.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether any token may be drawn."""
        return self.top_p == 1 and self.top_k == 0 and self.min_p == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt, the size that answers it, and how.

    Attributes:
        id: made by the service.
        prompt_ids: at least one token.
        size: the variant that answers, unless the load or the times of the answer speak against it.
        sampling: see there.
        samples: how many answers; number k of a seeded request is the answer that `seed + k` gives alone.
        grammar: that each answer must follow, if any.
        allowed: sizes that may answer, smallest first, `size` among them; where none are named, `size` alone.
        is_resizable: whether the answer may change between them once it is under way; it is then the only one.
        pace: what a resizable answer changes size for, besides the load.
        cancelled: set by whoever no longer wants the answer; looked at between steps.
    """

    id: str
    prompt_ids: list[int]
    size: Size
    sampling: Sampling
    samples: int = 1
    grammar: Grammar | None = None
    allowed: tuple[Size, ...] = ()
    is_resizable: bool = False
    pace: Pace = field(default_factory=Pace)
    cancelled: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        assert self.size in self.sizes, "the wanted size is not among those that may answer"
        assert self.samples == 1 or not self.is_resizable, "one answer of several cannot change its size"

    @property
    def sizes(self) -> tuple[Size, ...]:
        """That may answer, smallest first; at least one."""
        return self.allowed or (self.size,)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability, before temperature and the other options."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Pick:
    """One chosen token.

    Attributes:
        token_id: which.
        logprob: of this token; None where the request asks for none.
        top: the likeliest tokens, likeliest first, as many as were asked for.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of a running answer.

    Attributes:
        sample: which of the request's answers it belongs to.
        text: what comes after the pieces before; never part of a stop string.
        picks: the tokens chosen since the piece before, where logprobs are asked for.
    """

    sample: int
    text: str
    picks: tuple[Pick, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Where the time went, in milliseconds.

    Attributes:
        queue_ms: from arrival to the step that runs the request's first tokens.
        ttft_ms: from arrival to the first token.
        tpot_ms: mean time between two tokens of an answer after its first; None where no answer has two.
        total_ms: from arrival to the last token.
    """

    queue_ms: float
    ttft_ms: float
    tpot_ms: float | None
    total_ms: float


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an answer that one size has generated.

    Attributes:
        size: which.
        tokens: how many, the end token not among them.
    """

    size: Size
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One answer.

    Attributes:
        text: without the stop string that ended it.
        token_ids: without the end token that ended it.
        finish_reason: why it ended.
        picks: the tokens with their logprobs; empty where the request asks for none.
        spans: the sizes that generated it, in order; none where it has no token.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    picks: tuple[Pick, ...] = ()
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The one terminal event of a request that did not fail.

    Attributes:
        choices: its answers, at least one.
        timing: of the whole request.
        size: that the first answer ended on.
        cached_tokens: of the prompt, that were known from requests before and not computed.
        resumed_tokens: of the prompt, that were known up to some layer from requests of other sizes, and computed from
            there on.
    """

    choices: tuple[Choice, ...]
    timing: Timing
    size: Size
    cached_tokens: int = 0
    resumed_tokens: int = 0

    @property
    def text(self) -> str:
        """Of the first answer."""
        return self.choices[0].text

    @property
    def token_ids(self) -> list[int]:
        """Of the first answer."""
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        """`cancelled` where any answer was cut off, else that of the first answer."""
        if any(choice.finish_reason == "cancelled" for choice in self.choices):
            return "cancelled"
        return self.choices[0].finish_reason

    @property
    def completion_tokens(self) -> int:
        """Of all answers together."""
        return sum(len(choice.token_ids) for choice in self.choices)
