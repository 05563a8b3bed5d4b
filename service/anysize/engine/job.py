"""What the scheduler moves: requests, their answers under way, and the parts of a step. Plain data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from anysize.engine.workload import StepRow, Underway
from anysize.family.variant import Variant


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request as the scheduler sees it.

    Attributes:
        variants: that may answer, smallest first; they decide how many pages a token takes.
        prompt_tokens: at least one.
        max_tokens: of one answer, at least one.
        samples: how many answers.
        prompt_ids: the prompt, where what is known of it need not be run again.
        is_resizable: whether its answers may change between the variants once they are under way.
        deadline_s: when waiting has lasted too long, on whatever clock the caller uses.
        top: which of the variants it gets where nothing else speaks against it; the last by default.
        started: how many of the answers have been started.
        cached_tokens: of the prompt, that were known when the first of them was started, and not run.
        resumed_tokens: of the prompt after these, that were then known at the first positions.
    """

    variants: tuple[Variant, ...]
    prompt_tokens: int
    max_tokens: int
    samples: int = 1
    prompt_ids: Sequence[int] = ()
    is_resizable: bool = False
    deadline_s: float = float("inf")
    top: int = field(default=-1)
    started: int = field(default=0, init=False)
    cached_tokens: int = field(default=0, init=False)
    resumed_tokens: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.top < 0:
            self.top = len(self.variants) - 1

    @property
    def sequence_tokens(self) -> int:
        """The most tokens one of its sequences ever runs; the last token of an answer is never run."""
        return self.prompt_tokens + self.max_tokens - 1

    @property
    def waiting_tokens(self) -> int:
        """Of those of its sequences that have not been started."""
        return (self.samples - self.started) * self.sequence_tokens

    def token_ids(self, sample: int) -> Sequence[int]:  # noqa: ARG002  (whoever knows the answers adds them)
        """The prompt, and what has been generated of one of the answers."""
        return self.prompt_ids


JobT = TypeVar("JobT", bound=Job)


@dataclass(slots=True, eq=False)
class Run(Generic[JobT]):
    """One answer under way.

    Attributes:
        job: whose answer.
        sample: which of its answers.
        variant: the size that it runs on.
        sequence: its pages; a `Place`.
        given_tokens: how many are there before the next is picked: the prompt, and what the answer had when it came to
            this size.
        ran_tokens: how many tokens, of the prompt and then of the answer, have been run.
        border: the given tokens before it that are still to be run are known up to some layer already.
    """

    job: JobT
    sample: int
    variant: Variant
    sequence: Any
    given_tokens: int
    ran_tokens: int = 0
    border: int = 0

    @property
    def decodes(self) -> bool:
        """Whether all that was given has been run."""
        return self.ran_tokens >= self.given_tokens

    @property
    def tokens_on_size(self) -> int:
        """How many of its tokens have been picked since it came to this size."""
        return self.ran_tokens + 1 - self.given_tokens if self.decodes else 0

    @property
    def underway(self) -> Underway:
        """What is left of it."""
        job = self.job
        prompt_left = max(0, self.given_tokens - self.ran_tokens)
        answer_left = job.prompt_tokens + job.max_tokens - self.ran_tokens - prompt_left - self.decodes
        return Underway(self.variant, prompt_left, self.ran_tokens, answer_left)


@dataclass(frozen=True, slots=True)
class Share(Generic[JobT]):
    """A run's part of a step: its next `tokens` tokens."""

    run: Run[JobT]
    tokens: int

    @property
    def ends_prompt_or_decodes(self) -> bool:
        """Whether a token is picked after it."""
        return self.run.ran_tokens + self.tokens >= self.run.given_tokens

    @property
    def row(self) -> StepRow:
        """What it is to whoever predicts how long the step takes; until it has been run."""
        stored = self.run.ran_tokens
        return StepRow(
            self.run.variant,
            self.tokens,
            stored,
            wants_logits=self.ends_prompt_or_decodes,
            is_resumed=stored < self.run.border,
        )


@dataclass(slots=True)
class Step(Generic[JobT]):
    """What is to be run next.

    Attributes:
        shares: at least one while there is anything to do, unless `lost` is what there was.
        lost: jobs for which reserving pages raised; forgotten already.
    """

    shares: list[Share[JobT]]
    lost: list[JobT] = field(default_factory=list)
