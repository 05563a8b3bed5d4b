"""Perplexity of variants and other models, and their KL divergence to the teacher, on a text."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.variant import Variant
from anysize_training.replay import log_probabilities
from anysize_training.study.quality import Quality
from anysize_training.study.reference import Reference, Says
from anysize_training.study.texts import Windows
from anysize_training.trail import Trail


class Evaluator:
    """Scores models on one text. What the teacher says of it is computed once, and common beginnings are run once.

    Args:
        bank: the weights.
        windows: the text.
        batch: windows run at once.
    """

    def __init__(self, bank: Bank, windows: Windows, *, batch: int = 4) -> None:
        self._bank = bank
        teacher = assemble(bank, Variant.teacher(bank.blocks.student_layers))
        tokens_NL = windows.tokens_NL.to(teacher.device)
        self._trail = Trail(bank.architecture, tokens_NL[:, :-1], batch=batch)
        self._reference = Reference(
            self._says(teacher), self._hidden(teacher, "teacher"), tokens_NL[:, 1:].split(batch)
        )

    def quality(self, variant: Variant) -> Quality:
        """Score one variant."""
        if all(variant.choice):
            return self._reference.own_quality()
        return self.quality_of(assemble(self._bank, variant), variant.id)

    def quality_of(self, model: PreTrainedModel, name: str) -> Quality:
        """Score any model of the teacher's architecture and vocabulary.

        Args:
            model: with final norm and LM head of its own.
            name: for the progress bar.
        """
        return self._reference.quality(self._says(model), self._hidden(model, name))

    def qualities(self, variants: Sequence[Variant]) -> dict[str, Quality]:
        """Score variants by id, with a progress bar."""
        with tqdm(by_beginning(variants), desc="evaluating", unit="size") as progress:
            return {variant.id: self.quality(variant) for variant in progress}

    def _says(self, model: PreTrainedModel) -> Says:
        return partial(log_probabilities, self._bank.architecture, model)

    def _hidden(self, model: PreTrainedModel, name: str) -> list[Tensor]:
        return [states[-1] for states in self._trail.run(model, name)]


def by_beginning(variants: Sequence[Variant]) -> list[Variant]:
    """Variants that begin alike next to each other, which is the order in which scoring them costs least."""
    return sorted(variants, key=lambda variant: variant.choice)
