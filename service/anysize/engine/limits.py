"""What may be under way in an engine at once."""

from dataclasses import dataclass
from typing import Self

from anysize.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the queue and of a step; all of them hold at any time.

    Attributes:
        max_queued_requests: requests that wait.
        max_queued_tokens: tokens, of prompts and longest answers, that wait.
        max_running_requests: answers that are generated side by side.
        max_step_tokens: tokens in one step; more than `max_running_requests`, so that a prompt always moves.
        prefill_chunk_tokens: tokens of one prompt in one step.
    """

    max_queued_requests: int
    max_queued_tokens: int
    max_running_requests: int
    max_step_tokens: int
    prefill_chunk_tokens: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those that the settings of a service name."""
        return cls(
            max_queued_requests=settings.max_queued_requests,
            max_queued_tokens=settings.max_queued_tokens,
            max_running_requests=settings.max_running_requests,
            max_step_tokens=settings.max_step_tokens,
            prefill_chunk_tokens=settings.prefill_chunk_tokens,
        )
