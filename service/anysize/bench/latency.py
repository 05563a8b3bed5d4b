"""Predicted times against measured ones, on loads that the calibration has not seen."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from anysize.engine.kernels.kernels import Kernels
from anysize.engine.workload import StepRow
from anysize.family.family import Family
from anysize.sizing.calibrate import StepTimer
from anysize.sizing.correction import Correction
from anysize.sizing.latency import LatencyModel

_MOST_ROWS, _CONTEXTS, _PROMPTS = 16, (16, 1024), (16, 512)
_CHUNK_TOKENS = 128
_TOKENS = 12_288
_REPEATS = 3


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A batch that decodes, and a prompt that comes to it.

    Attributes:
        decoding: one step of the batch, from which the time per output token follows.
        prefill: the steps of the prompt beside the batch; their sum is the time to first token.
    """

    decoding: tuple[StepRow, ...]
    prefill: tuple[tuple[StepRow, ...], ...]


def bench_latency(
    family: Family,
    model: LatencyModel,
    *,
    loads: int,
    seed: int,
    kernels: Kernels | None,
    on_progress: Callable[[float], object] = lambda _share: None,
) -> dict[str, Any]:
    """Run random loads: 1 to 16 rows of any sizes, with 16 to 1,024 tokens stored, and prompts of up to 512 tokens.

    Predictions are those of a service that has run the loads before: each load is predicted first, then measured, and
    then learned from (`Correction`).

    Args:
        family: whose model runs.
        model: fitted on this machine.
        loads: how many.
        seed: of the loads.
        kernels: compiled ones, where the model was fitted with them.
        on_progress: told which share is done.

    Returns:
        Median and 95th percentile of the absolute relative errors of time per output token and time to first token, and
        the median of measured times over the calibration's, which tells how much slower the machine is now.
    """
    timer = StepTimer(family, kernels, tokens=_TOKENS, rows=_MOST_ROWS + 1)
    correction = Correction(model)
    ratios: dict[str, list[float]] = {"tpot": [], "ttft": []}
    stored: dict[str, list[float]] = {"tpot": [], "ttft": []}
    for done, load in enumerate(held_out(family, loads, seed), start=1):
        corrected = correction.corrected()
        for kind, steps in (("tpot", [load.decoding]), ("ttft", load.prefill)):
            steps_ms = [float(np.median([timer(rows) for _ in range(_REPEATS)])) for rows in steps]
            ratios[kind].append(sum(steps_ms) / sum(map(corrected.step_ms, steps)))
            stored[kind].append(sum(steps_ms) / sum(map(model.step_ms, steps)))
            for rows, ms in zip(steps, steps_ms, strict=True):
                correction.saw(model.parts_ms(rows), model_ms=ms, whole_ms=ms)
        on_progress(done / loads)
    report: dict[str, Any] = {"benchmark": "latency", "loads": loads, "seed": seed}
    for kind, over_predicted in ratios.items():
        errors = np.abs(1 / np.array(over_predicted) - 1)
        report |= {
            f"{kind}_error_median": float(np.median(errors)),
            f"{kind}_error_p95": float(np.quantile(errors, 0.95)),
            f"ratio_{kind}_measured_over_calibrated": float(np.median(stored[kind])),
        }
    return report


def held_out(family: Family, loads: int, seed: int) -> list[HeldOut]:
    """Random loads; every second one has rows of one size alone."""
    chance = random.Random(seed)  # noqa: S311  (no secret)
    longest = family.context_tokens - 1
    found: list[HeldOut] = []
    for number in range(loads):
        rows = chance.randint(1, _MOST_ROWS)
        sizes = [size.variant for size in family.ladder] if number % 2 else [chance.choice(family.ladder).variant]
        stored = [min(longest, chance.randint(*_CONTEXTS)) for _ in range(rows)]
        while sum(stored) > _TOKENS - _PROMPTS[1]:
            stored.pop()
        decoding = tuple(StepRow(chance.choice(sizes), 1, tokens, True) for tokens in stored)
        beside = decoding[: chance.randint(0, len(decoding))]
        prompt = min(longest, chance.randint(*_PROMPTS))
        variant = chance.choice(sizes)
        chunks = [
            StepRow(variant, min(_CHUNK_TOKENS, prompt - start), start, start + _CHUNK_TOKENS >= prompt)
            for start in range(0, prompt, _CHUNK_TOKENS)
        ]
        found.append(HeldOut(decoding, tuple((*beside, chunk) for chunk in chunks)))
    return found
