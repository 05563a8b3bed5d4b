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
        variant: decides how many pages a token takes.
        prompt_tokens: at least one.
        max_tokens: of one answer, at least one.
        samples: how many answers.
        prompt_ids: the prompt, where what is known of it need not be run again.
        deadline_s: when waiting has lasted too long, on whatever clock the caller uses.
        started: how many of the answers have been started.
        cached_tokens: of the prompt, that were known when the first of them was started, and not run.
        resumed_tokens: of the prompt after these, that were then known at the first positions.
    """

    variant: Variant
    prompt_tokens: int
    max_tokens: int
    samples: int = 1
    prompt_ids: Sequence[int] = ()
    deadline_s: float = float("inf")
    started: int = field(default=0, init=False)
    cached_tokens: int = field(default=0, init=False)
    resumed_tokens: int = field(default=0, init=False)

    @property
    def sequence_tokens(self) -> int:
        """The most tokens one of its sequences ever runs; the last token of an answer is never run."""
        return self.prompt_tokens + self.max_tokens - 1

    @property
    def waiting_tokens(self) -> int:
        """Of those of its sequences that have not been started."""
        return (self.samples - self.started) * self.sequence_tokens


JobT = TypeVar("JobT", bound=Job)


@dataclass(slots=True, eq=False)
class Run(Generic[JobT]):
    """One answer under way.

    Attributes:
        job: whose answer.
        sample: which of its answers.
        sequence: its pages; a `Place`.
        ran_tokens: how many tokens, of the prompt and then of the answer, have been run.
        border: the tokens of the prompt before it that are run are known up to some layer already.
    """

    job: JobT
    sample: int
    sequence: Any
    ran_tokens: int = 0
    border: int = 0

    @property
    def decodes(self) -> bool:
        """Whether the whole prompt has been run."""
        return self.ran_tokens >= self.job.prompt_tokens

    @property
    def underway(self) -> Underway:
        """What is left of it."""
        job = self.job
        prompt_left = max(0, job.prompt_tokens - self.ran_tokens)
        answer_left = job.prompt_tokens + job.max_tokens - self.ran_tokens - prompt_left - self.decodes
        return Underway(job.variant, prompt_left, self.ran_tokens, answer_left)


@dataclass(frozen=True, slots=True)
class Share(Generic[JobT]):
    """A run's part of a step: its next `tokens` tokens."""

    run: Run[JobT]
    tokens: int

    @property
    def ends_prompt_or_decodes(self) -> bool:
        """Whether a token is picked after it."""
        return self.run.ran_tokens + self.tokens >= self.run.job.prompt_tokens

    @property
    def row(self) -> StepRow:
        """What it is to whoever predicts how long the step takes; until it has been run."""
        stored = self.run.ran_tokens
        return StepRow(
            self.run.job.variant,
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
