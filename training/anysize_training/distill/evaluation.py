"""Looking at a run while it goes: perplexities and cosine similarities on its held-out rows."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F

from anysize.family.bank import Bank
from anysize.family.order import PatchOrder, positions_in_order
from anysize.family.variant import Owner, Variant
from anysize_training.distill.batches import Batch, Sequences
from anysize_training.distill.processes import Processes
from anysize_training.replay import Replay

_CHUNK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A run's student and what can be put together from it, on held-out rows.

    Attributes:
        student_perplexity: of the student alone.
        middle_perplexity: of the variant in which the first half of the patch order is patched.
        teacher_perplexity: of the teacher, which does not change.
        cosine: for each position the mean cosine similarity of student and teacher at the block's end.
    """

    student_perplexity: float
    middle_perplexity: float
    teacher_perplexity: float
    cosine: list[float]


class HeldOut:
    """Evaluates a bank on held-out rows. Every process does all of it, since a sharded model needs all of them.

    Args:
        bank: teacher and student.
        order: the patch order, which says what is in the middle.
        sequences: the held-out rows.
        rows_at_once: how many go through the models together.
        processes: whose device is used.
        bfloat16: whether the passes are autocast, as the run's are.
    """

    def __init__(
        self,
        bank: Bank,
        order: PatchOrder,
        sequences: Sequences,
        *,
        rows_at_once: int,
        processes: Processes,
        bfloat16: bool,
    ) -> None:
        positions = bank.blocks.student_layers
        self._bank = bank
        self._sequences = sequences
        self._rows_at_once = rows_at_once
        self._device = processes.device
        self._bfloat16 = bfloat16
        self._middle = Variant.of(positions, positions_in_order(order, positions)[: (positions + 1) // 2])

    def evaluate(self, ends: tuple[nn.Module, nn.Module]) -> Evaluation:
        """Measure.

        Args:
            ends: the modules that hold embedding, norm and head of teacher and student together where the run is
                sharded.
        """
        for module in ends:
            if isinstance(module, FSDPModule):
                module.unshard()
        losses = torch.zeros(3, dtype=torch.float64)
        cosines_M = torch.zeros(self._bank.blocks.student_layers, dtype=torch.float64)
        tokens = 0
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            for numbers in torch.arange(len(self._sequences)).split(self._rows_at_once):
                batch = self._sequences.rows(numbers).to(self._device)
                of_batch, cosines = self._measure(batch)
                losses += of_batch
                cosines_M += cosines
                tokens += batch.tokens
        for module in ends:
            if isinstance(module, FSDPModule):
                module.reshard()
        student, middle, teacher = (math.exp(min(loss / tokens, 700.0)) for loss in losses.tolist())
        return Evaluation(student, middle, teacher, (cosines_M / tokens).tolist())

    def _measure(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums over a batch: the losses of student, middle and teacher, and the cosines of all positions."""
        bank, blocks = self._bank, self._bank.blocks.blocks
        runs = {
            owner: Replay(bank.architecture, bank.model(owner), batch.inputs_BL, batch.positions_BL)
            for owner in (Owner.STUDENT, Owner.TEACHER)
        }
        teacher, student = runs[Owner.TEACHER], runs[Owner.STUDENT]
        theirs, ours = teacher.embedded_NLD, student.embedded_NLD
        middle = runs[self._middle.embedding_owner].embedded_NLD
        cosines = []
        for position, (block, patched) in enumerate(zip(blocks, self._middle.choice, strict=True)):
            theirs, ours = teacher.run(theirs, block), student.run(ours, [position])
            middle = teacher.run(middle, block) if patched else student.run(middle, [position])
            similarity_BL = F.cosine_similarity(ours.float(), theirs.float(), dim=-1)
            cosines.append((similarity_BL * batch.is_counted_BL).sum())
        losses = [
            _loss(replay, hidden_BLD, batch)
            for replay, hidden_BLD in (
                (student, ours),
                (runs[self._middle.head_owner], middle),
                (teacher, theirs),
            )
        ]
        return torch.stack(losses).double().cpu(), torch.stack(cosines).double().cpu()


def _loss(replay: Replay, hidden_BLD: Tensor, batch: Batch) -> Tensor:
    """The summed cross entropy of a batch's counted tokens, in chunks."""
    hidden_TD = hidden_BLD[batch.is_counted_BL]
    targets_T = batch.targets_BL[batch.is_counted_BL]
    chunks = zip(hidden_TD.split(_CHUNK_TOKENS), targets_T.split(_CHUNK_TOKENS), strict=True)
    return torch.stack(
        [F.nll_loss(replay.log_probabilities(hidden_CD), targets_C, reduction="sum") for hidden_CD, targets_C in chunks]
    ).sum()
