"""What is to be computed, as numbers alone: for whoever predicts how long it takes. Knows no tensor and no clock."""

from dataclasses import dataclass

from anysize.family.variant import Variant


@dataclass(frozen=True, slots=True)
class StepRow:
    """The part of one answer in one step.

    Attributes:
        variant: the size that it runs on.
        tokens: that it brings.
        stored: tokens before these, to which they attend.
        wants_logits: whether a token is picked after it.
        is_resumed: whether the tokens are known up to some layer, and run from there on alone.
    """

    variant: Variant
    tokens: int
    stored: int
    wants_logits: bool
    is_resumed: bool = False


@dataclass(frozen=True, slots=True)
class Underway:
    """One answer that runs or waits.

    Attributes:
        variant: the size that it runs on.
        prompt_left: tokens of its prompt that are still to be run.
        stored: tokens that have been run.
        answer_left: tokens that it may still get; fewer, if it ends early.
    """

    variant: Variant
    prompt_left: int
    stored: int
    answer_left: int


@dataclass(frozen=True, slots=True)
class Load:
    """All that an engine has before it.

    Attributes:
        running: in the order in which they were started.
        waiting: in the order in which they will be.
    """

    running: tuple[Underway, ...] = ()
    waiting: tuple[Underway, ...] = ()
