"""A calibration made by hand, for services whose latency budgets are tested without taking any time."""

import itertools
from typing import Any

from anysize.family.family import Family
from anysize.sizing.calibration import Calibration, Key, StepOut
from anysize.sizing.latency import FEATURES

MS_A_LAYER = 10.0


def evenly(part: str, ms: float) -> dict[str, float]:
    """Coefficients by which each token in a layer (or row in a head) beyond the first costs the same."""
    found: dict[str, float] = {}
    knots = [int(name.rpartition("_")[2]) for name in FEATURES if name.startswith(f"{part}_to_")]
    for low, high in itertools.pairwise([1, *knots]):
        found[f"{part}_to_{high}"] = ms * (high - low)
    return found | {f"{part}_over_{knots[-1]}": ms}


def calibration(family: Family, ms_a_layer: float = MS_A_LAYER) -> Calibration:
    """By default steps take a thousand times longer than a tiny model's, so that load and correction change little."""
    step: dict[str, Any] = {"variant": "teacher", "tokens": 1, "stored": 0, "wants_logits": True}
    key = Key(family_sha256="", device="cpu", processor="", dtype="", threads=1, kernels=None, quantize=None, torch="")
    return Calibration(
        schema_version=1,
        key=key,
        blocks=[len(block) for block in family.bank.blocks.blocks],
        shares_base=True,
        shares_head=True,
        coefficients=dict.fromkeys(FEATURES, 0.0) | {"teacher_reads": ms_a_layer},
        step_margin=1.0,
        lasting_margin=1.0,
        steps=[StepOut.model_validate({"rows": [step], "measured_ms": 1.0, "predicted_ms": 1.0})],
    )
