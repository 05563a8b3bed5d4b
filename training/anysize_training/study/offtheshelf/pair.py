"""What can be measured of a teacher and of a student that others distilled from it."""

from collections.abc import Callable
from typing import Protocol

from transformers import PreTrainedTokenizerBase as Tokenizer

from anysize.family.blocks import BlockMap
from anysize.family.variant import Variant
from anysize_training.study.quality import Quality
from anysize_training.study.texts import Windows

Score = Callable[[Variant], Quality]


class Pair(Protocol):
    """A teacher and a student that can be patched with its layers."""

    @property
    def name(self) -> str:
        """Of student and teacher, for titles."""
        ...

    @property
    def measure(self) -> str:
        """What `scorer` scores by."""
        ...

    @property
    def blocks(self) -> BlockMap:
        """Which teacher layers each student layer stands for."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The teacher's."""
        ...

    @property
    def fingerprint(self) -> dict[str, str]:
        """Of both models' weights and of the block map."""
        ...

    def parameters(self, variant: Variant) -> int:
        """Inference parameters of a variant: embedding and head counted separately."""
        ...

    def scorer(self, windows: Windows) -> Score:
        """What scores variants on a text."""
        ...

    def pruned(self) -> "Pair":
        """The same teacher, with its own kept layers in place of the student: naive layer pruning."""
        ...
