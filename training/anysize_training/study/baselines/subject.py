"""What is pruned, and the family that it is compared with."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize.family.bank import Bank
from anysize.family.blocks import BlockMap
from anysize.family.family import Family
from anysize.family.pretrained import Tokenizer


@dataclass(frozen=True, slots=True)
class Subject:
    """A teacher.

    Attributes:
        name: of it.
        architecture: where its parts are.
        teacher: the model; where there is a family, the one in its bank.
        tokenizer: its.
        family: to compare with, if any.
    """

    name: str
    architecture: Architecture
    teacher: PreTrainedModel
    tokenizer: Tokenizer
    family: Family | None = None

    @property
    def layers(self) -> int:
        """N."""
        return len(self.architecture.layers_of(self.teacher))

    @property
    def bank(self) -> Bank:
        """The family's, or one in which the teacher is its own student."""
        if self.family is not None:
            return self.family.bank
        return Bank(self.architecture, BlockMap(tuple(range(self.layers)), self.layers), self.teacher, self.teacher)
