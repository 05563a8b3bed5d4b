"""Measures steps of the model on this machine, for the latency model to be fitted to."""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from anysize.engine.kernels.kernels import Kernels
from anysize.engine.memory import token_bytes
from anysize.engine.mixed import is_delta
from anysize.engine.model import Model, Row
from anysize.engine.workload import StepRow
from anysize.family.family import Family
from anysize.sizing.latency import Shape

_BATCHES = (1, 2, 4, 8, 16, 32)
_CONTEXTS = (16, 64, 256, 512, 1024)
# Tokens of a prompt in one step, and in how many steps; long ones take as long as all others together.
_CHUNKS = {6: 4, 12: 4, 24: 4, 32: 4, 48: 4, 64: 4, 96: 3, 128: 3, 192: 2, 256: 1}
_STORED_TOKENS = 6144
_PAGE_TOKENS = 16
_MOST_ROUNDS = 9
_ANY_TOKEN = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """One step and how long it took, time after time.

    Attributes:
        rows: of the step.
        times_ms: of its repetitions.
    """

    rows: tuple[StepRow, ...]
    times_ms: tuple[float, ...]

    @property
    def ms(self) -> float:
        """The median."""
        return statistics.median(self.times_ms)


class StepTimer:
    """Runs steps on a family's model with tokens of no meaning, and times them.

    Args:
        family: whose model runs.
        kernels: compiled ones, where the service uses them.
        tokens: the most that the rows of one step attend to, together.
        rows: the most rows of a step.
    """

    def __init__(self, family: Family, kernels: Kernels | None, *, tokens: int, rows: int) -> None:
        room = tokens + rows * _PAGE_TOKENS
        self._model = Model(
            family.bank, kv_bytes=room * token_bytes(family.bank), page_tokens=_PAGE_TOKENS, kernels=kernels
        )
        self._touch(family, room)

    def __call__(self, rows: Sequence[StepRow]) -> float:
        """Milliseconds that a step of these rows takes; building and freeing its sequences is not counted."""
        brought: list[Row] = []
        for row in rows:
            sequence = self._model.reserve(row.variant, row.stored + row.tokens)
            assert sequence is not None, "a step attends to more tokens than the timer has room for"
            sequence.length = row.stored
            brought.append(Row(sequence, [_ANY_TOKEN] * row.tokens, wants_logits=row.wants_logits))
        started_s = time.perf_counter()
        logits_RV = self._model.step(brought)
        if logits_RV.is_cuda:
            torch.cuda.synchronize(logits_RV.device)
        done_s = time.perf_counter()
        for one in brought:
            self._model.release(one.sequence)
        return 1e3 * (done_s - started_s)

    def _touch(self, family: Family, tokens: int) -> None:
        """Fill all pages: memory that was never written costs nothing to read."""
        whole = self._model.reserve(family.teacher.variant, tokens // _PAGE_TOKENS * _PAGE_TOKENS)
        assert whole is not None
        for place in range(family.teacher.layers):
            for part in whole.read(place, 0, whole.capacity):
                part.normal_()
        self._model.release(whole)


def shape_of(family: Family) -> Shape:
    """What of a family the latency model needs to know."""
    bank = family.bank
    return Shape(blocks=tuple(map(len, bank.blocks.blocks)), shares_base=is_delta(bank), shares_head=bank.shares_head)


def calibration_steps(family: Family) -> list[tuple[StepRow, ...]]:
    """Steps that tell the costs apart: batches, contexts and chunks, of one size and of many.

    No row is longer than the family's context, and no step attends to more tokens than `measure` has room for.
    """
    chance = random.Random(0)  # noqa: S311  (no secret)
    sizes = [size.variant for size in family.ladder]
    spread = [*dict.fromkeys(sizes[round(number * (len(sizes) - 1) / 3)] for number in range(4))]
    contexts = [min(context, family.context_tokens) - 1 for context in _CONTEXTS]
    steps: list[tuple[StepRow, ...]] = []

    def decoding(batch: int) -> tuple[StepRow, ...]:
        fit = [context for context in contexts if context * batch <= _STORED_TOKENS] or [contexts[0]]
        return tuple(StepRow(chance.choice(sizes), 1, chance.choice(fit), True) for _ in range(batch))

    for batch in _BATCHES:
        fit = [context for context in contexts if context * batch <= _STORED_TOKENS]
        for number, variant in enumerate(spread):
            ends = {fit[0], fit[-1], fit[number % len(fit)]}
            steps.extend((StepRow(variant, 1, stored, True),) * batch for stored in sorted(ends))
        steps.extend(decoding(batch) for _ in range(6))
    for turn, (chunk, times) in enumerate(_CHUNKS.items()):
        tokens = min(chunk, family.context_tokens)
        for number in range(times):
            stored = min(contexts[(turn + number) % len(contexts)], family.context_tokens - tokens)
            variant = spread[(turn + number) % len(spread)]
            prompt = StepRow(variant, tokens, stored, wants_logits=bool(number % 2))
            steps.append((*decoding(_BATCHES[number]), prompt) if number > 1 else (prompt,))
    return steps


def measure(
    family: Family,
    steps: Sequence[tuple[StepRow, ...]],
    *,
    kernels: Kernels | None,
    within_s: float,
    on_progress: Callable[[float], object] = lambda _share: None,
) -> list[Measured]:
    """Time steps, round by round, each round in another order: a busy moment must not fall on one kind of step.

    Steps that only decode are run twice, and timed the second time: in a service others of their kind go before them.

    Args:
        family: whose model runs.
        steps: the rows of each.
        kernels: compiled ones, where the service uses them.
        within_s: no round is begun that would not be over by then; there is one at least, and 9 at most.
        on_progress: told after each step which share of the work is done.
    """
    tokens = max(sum(row.stored + row.tokens for row in rows) for rows in steps)
    timer = StepTimer(family, kernels, tokens=tokens, rows=max(map(len, steps)))
    timer(steps[0])
    times_ms: list[list[float]] = [[] for _ in steps]
    order = list(range(len(steps)))
    rounds, turn, started_s = _MOST_ROUNDS, 0, time.monotonic()
    while turn < rounds:
        random.Random(turn).shuffle(order)  # noqa: S311  (no secret)
        for done, number in enumerate(order, start=1):
            if all(row.tokens == 1 for row in steps[number]):
                timer(steps[number])
            times_ms[number].append(timer(steps[number]))
            on_progress((turn + done / len(order)) / rounds)
        turn += 1
        rounds = min(_MOST_ROUNDS, max(turn, int(within_s / (time.monotonic() - started_s) * turn)))
    return [Measured(rows, tuple(times)) for rows, times in zip(steps, times_ms, strict=True)]
