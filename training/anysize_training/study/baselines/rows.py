"""The rows of a report on baselines, as JSON holds them.

Each has `method` (`family` for the sizes of a family), `asked_layers`, and what is null where a method has no model
that small: `layers`, `parameters` (at inference), `fraction` (of the teacher's), `variant` (of a family), `kept`
(teacher layers, where nothing is merged), `laco` (C, T, whether that run ended here, similarity on the calibration
text, and each merge: place and layers merged into it), `perplexity` and `kl`. The last two are null too where nothing
was scored, and `perplexity` where it is no finite number.
"""

import math
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from anysize_training.stack import Stack, build, parameters_of
from anysize_training.study.baselines.baseline import Baseline
from anysize_training.study.baselines.laco import Merge
from anysize_training.study.baselines.subject import Subject
from anysize_training.study.evaluate import Evaluator
from anysize_training.study.quality import Quality

Row = dict[str, Any]


def baseline_rows(subject: Subject, baselines: Sequence[Baseline], evaluator: Evaluator | None) -> list[Row]:
    """Build and score each model, the same model once.

    Args:
        subject: the teacher.
        baselines: of it.
        evaluator: where there is a text to score on.
    """
    whole = parameters_of(subject.teacher, subject.architecture)
    known: dict[Stack, tuple[int, Quality | None]] = {}
    # In this order those that begin alike follow each other.
    for stack in tqdm(sorted({one.stack for one in baselines if one.stack}), desc="baselines", unit="model"):
        model = build(subject.teacher, subject.architecture, stack)
        quality = evaluator.quality_of(model, f"{len(stack)} layers") if evaluator else None
        known[stack] = parameters_of(model, subject.architecture), quality
    rows: list[Row] = []
    for one in baselines:
        row = _row(one.method, one.asked_layers)
        if one.stack is not None:
            parameters, quality = known[one.stack]
            is_plain = all(layer.is_plain for layer in one.stack)
            row |= {
                "layers": len(one.stack),
                "parameters": parameters,
                "fraction": parameters / whole,
                "kept": [layer.base for layer in one.stack] if is_plain else None,
                "laco": _laco(one.merge) if one.merge else None,
                **_figures(quality),
            }
        rows.append(row)
    return rows


def family_rows(subject: Subject, evaluator: Evaluator | None) -> list[Row]:
    """The sizes of the family, where there is one, smallest first and the teacher last."""
    sizes = subject.family.ladder if subject.family else ()
    qualities = evaluator.qualities([size.variant for size in sizes]) if evaluator else {}
    return [
        _row("family", size.layers)
        | {
            "layers": size.layers,
            "parameters": size.footprint.parameters,
            "fraction": size.fraction,
            "variant": size.id,
            **_figures(qualities.get(size.id)),
        }
        for size in sizes
    ]


def _row(method: str, asked_layers: int) -> Row:
    named = {"method": method, "asked_layers": asked_layers}
    return named | dict.fromkeys(("layers", "parameters", "fraction", "variant", "kept", "laco", "perplexity", "kl"))


def _laco(merge: Merge) -> Row:
    return {
        "C": merge.merged,
        "T": merge.threshold,
        "run_ended": merge.is_last,
        "similarity": merge.similarity,
        "merges": merge.folds,
    }


def _figures(quality: Quality | None) -> Row:
    if quality is None:
        return {}
    return {"perplexity": quality.perplexity if math.isfinite(quality.perplexity) else None, "kl": quality.kl}
