"""The bank: the one owner of a family's weights. Every variant is made of references into it."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize.family.arena import settle
from anysize.family.blocks import BlockMap
from anysize.family.variant import LayerRef, Owner


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """Teacher and student in memory.

    Neither model is ever run, and nothing that serves writes to them; `anysize.family.assembly.assemble` makes views
    that run.

    Attributes:
        architecture: where the parts of both models are.
        blocks: which teacher layers each student layer stands for.
        teacher: N layers.
        student: M layers. Of a `delta` student the base weights are the teacher's own tensors.
    """

    architecture: Architecture
    blocks: BlockMap
    teacher: PreTrainedModel
    student: PreTrainedModel

    def __post_init__(self) -> None:
        for model in (self.teacher, self.student):
            model.eval().requires_grad_(False)

    def settle(self) -> None:
        """Put the weights where they are read fastest; they stay the same objects. For a bank that nobody uses yet."""
        settle(tensor for tensor in self.tensors() if isinstance(tensor, nn.Parameter))

    def model(self, owner: Owner) -> PreTrainedModel:
        """The trained model of an owner."""
        return self.teacher if owner is Owner.TEACHER else self.student

    @property
    def shares_head(self) -> bool:
        """Whether teacher and student have one LM head."""
        student, teacher = (self.architecture.head_of(self.model(owner))._parameters for owner in Owner)
        return all(student[name] is teacher[name] for name in teacher)

    def layer(self, ref: LayerRef) -> nn.Module:
        """One decoder layer."""
        return self.architecture.layers_of(self.model(ref.owner))[ref.layer]

    def tensors(self) -> Iterator[Tensor]:
        """Every distinct parameter and buffer, once."""
        seen: set[int] = set()
        for model in (self.teacher, self.student):
            for tensor in (*model.parameters(), *model.buffers()):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield tensor
