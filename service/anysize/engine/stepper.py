"""One step of the model, and whose fault it is when it fails."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from anysize.engine.scheduler import Pages
from anysize.engine.sequence import Row
from anysize.errors import EngineError
from anysize.family.variant import Variant

logger = logging.getLogger(__name__)

# Every vocabulary has a token of this number.
_HARMLESS = 0
# How torch's CPU allocator words it; its class is a plain RuntimeError.
_NO_MEMORY = ("not enough memory", "can't allocate memory")


class StepModel(Pages, Protocol):
    """What the engine asks of the model. `anysize.engine.model.Model` is one.

    A call of `step` that raises leaves every sequence as it was.
    """

    @property
    def total_pages(self) -> int:
        """All KV pages."""
        ...

    @property
    def free_pages(self) -> int:
        """Those that nobody holds."""
        ...

    @property
    def cached_pages(self) -> int:
        """Those of the free ones in which something is kept for prompts to come."""
        ...

    @property
    def used_pages(self) -> int:
        """Those that somebody holds."""
        ...

    def fits(self, variant: Variant, tokens: int) -> bool:
        """Whether so long a sequence could ever have its pages."""
        ...

    def step(self, rows: Sequence[Row]) -> Tensor:
        """Run rows; float32 logits [rows that want them, V], in the order of the rows."""
        ...


@dataclass(frozen=True, slots=True)
class Stepped:
    """What came of a step.

    Attributes:
        rows: numbers of the rows that have logits.
        logits_RV: theirs, in this order.
        failed: what went wrong with the rows that failed, by their number.
    """

    rows: list[int]
    logits_RV: Tensor
    failed: dict[int, EngineError]


def run_rows(model: StepModel, rows: Sequence[Row]) -> Stepped:
    """Run one step; rows that make the model fail get an error, and the others are run all the same."""
    lengths = [row.sequence.length for row in rows]
    told = [number for number, row in enumerate(rows) if row.wants_logits]
    try:
        return Stepped(told, model.step(rows), {})
    except Exception as error:  # noqa: BLE001  (a model may raise anything; who made it fail is found out below)
        if len(rows) == 1:
            return Stepped([], torch.empty(0, 0), {0: _failure(error)})
        logger.warning("a step of %d rows failed (%s); running them one by one", len(rows), type(error).__name__)
    failed: dict[int, EngineError] = {}
    logits: list[Tensor] = []
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if row.sequence.length != length:
            failed[number] = EngineError("the model failed in the middle of a step")
            continue
        alone = run_rows(model, [row])
        if alone.failed:
            failed[number] = alone.failed[0]
        logits += alone.logits_RV
    told = [number for number in told if number not in failed]
    return Stepped(told, torch.stack(logits) if logits else torch.empty(0, 0), failed)


def answers_at_all(model: StepModel, variant: Variant) -> bool:
    """Whether the model still runs a token of nobody's: tells a broken model from a request that it cannot take."""
    sequence = model.reserve(variant, 1)
    if sequence is None:
        return True  # no page free, so others still run and will show it
    try:
        return not run_rows(model, [Row(sequence, [_HARMLESS], wants_logits=True)]).failed
    finally:
        model.release(sequence)


def _failure(error: Exception) -> EngineError:
    logger.error("the model failed on a request", exc_info=error)
    is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        text in str(error) for text in _NO_MEMORY
    )
    why = "there was not enough memory for it" if is_memory else type(error).__name__
    return EngineError(f"the model failed on this request: {why}")
