"""Causal language models, such as DistilGPT2 and GPT2: the variants that are served, of a pair that is not packed."""

from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase as Tokenizer

from anysize.family.assembly import kept_layers
from anysize.family.bank import Bank
from anysize.family.blocks import BlockMap
from anysize.family.footprint import footprint_of
from anysize.family.variant import Variant
from anysize_training.study.evaluate import Evaluator
from anysize_training.study.offtheshelf.pair import Score
from anysize_training.study.texts import Windows


@dataclass(frozen=True, slots=True, eq=False)
class CausalPair:
    """A pair of causal language models, scored by perplexity.

    Attributes:
        name: of student and teacher.
        bank: their weights.
        tokenizer: the teacher's.
        fingerprint: of both.
        measure: `perplexity`.
    """

    name: str
    bank: Bank
    tokenizer: Tokenizer
    fingerprint: dict[str, str]
    measure: str = "perplexity"

    @property
    def blocks(self) -> BlockMap:
        """The bank's block map."""
        return self.bank.blocks

    def parameters(self, variant: Variant) -> int:
        """Inference parameters of a variant."""
        return footprint_of(self.bank, variant).parameters

    def scorer(self, windows: Windows) -> Score:
        """Perplexity on windows of a text."""
        return Evaluator(self.bank, windows).quality

    def pruned(self) -> "CausalPair":
        """The teacher with its own kept layers in place of the student."""
        bank = self.bank
        return replace(
            self,
            bank=Bank(
                bank.architecture, bank.blocks, bank.teacher, kept_layers(bank.teacher, bank.architecture, bank.blocks)
            ),
        )
