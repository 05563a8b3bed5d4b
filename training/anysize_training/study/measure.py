"""Writing measurements and ladders into a family folder."""

from collections.abc import Sequence
from pathlib import Path

from anysize.family.artifact import amend_family
from anysize.family.assembly import kept_layers
from anysize.family.family import Family
from anysize.family.int8 import quantize
from anysize.family.manifest import Manifest, Measurement
from anysize.family.variant import Variant
from anysize_training.card import model_card
from anysize_training.study.evaluate import Evaluator
from anysize_training.study.quality import Quality
from anysize_training.study.texts import Windows


def measurement(variant: Variant, quality: Quality, windows: Windows, *, int8: Quality | None = None) -> Measurement:
    """One result as the manifest keeps it; `int8` is that of rounded weights."""
    return Measurement(
        variant=variant.id,
        dataset=windows.name,
        dataset_sha256=windows.sha256,
        perplexity=quality.perplexity,
        kl=quality.kl,
        tokens=windows.scored,
        perplexity_int8=int8.perplexity if int8 else None,
    )


def untrained_quality(family: Family, evaluator: Evaluator) -> Quality:
    """The quality of the student before distillation: the teacher's kept layers alone."""
    bank = family.bank
    return evaluator.quality_of(kept_layers(bank.teacher, bank.architecture, bank.blocks), "untrained")


def int8_evaluator(family: Family, windows: Windows) -> Evaluator:
    """What scores sizes with rounded weights. The family's own weights are rounded for good."""
    quantize(family.bank)
    return Evaluator(family.bank, windows)


def amend_ladder(
    folder: Path, family: Family, ladder: Sequence[Variant], command: str, *, patch_order: Sequence[int] | None = None
) -> None:
    """Write another ladder into a family folder; measurements of the old one go.

    Args:
        folder: of the family.
        family: loaded from it.
        ladder: the sizes.
        command: the command line that found them.
        patch_order: that they follow; without one the manifest keeps its own.
    """
    assert family.manifest is not None
    update = {
        "ladder": tuple(variant.id for variant in ladder),
        "ladder_command": command,
        "measurements": (),
        "measurements_command": None,
        "untrained": None,
    }
    if patch_order is not None:
        update["patch_order"] = tuple(patch_order)
    amend(folder, family, family.manifest.model_copy(update=update))


def amend(folder: Path, family: Family, manifest: Manifest) -> None:
    """Write a manifest, and the card that follows from it, into a family folder."""
    amended = Family(
        family.name,
        family.bank,
        family.tokenizer,
        patch_order=manifest.patch_order,
        ladder=manifest.ladder,
        manifest=manifest,
    )
    plots = [name for name in manifest.files if name.endswith(".png")]
    amend_family(folder, manifest, card=model_card(amended, manifest, plots))
