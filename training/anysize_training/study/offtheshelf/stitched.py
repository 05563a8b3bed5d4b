"""Causal language models of different widths or heads: each runs its own layers, and a linear map stands at each seam.

Where neighbouring positions have different owners, hidden states go from one width to the other (`seams`). Within a run
of positions of one owner nothing is mapped, so that nothing patched is the student and everything patched the teacher.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from anysize.errors import SettingsError
from anysize.family.blocks import BlockMap
from anysize.family.variant import Owner, Variant
from anysize_training.replay import Replay
from anysize_training.study.offtheshelf.pair import Score
from anysize_training.study.offtheshelf.seams import Seam, Side
from anysize_training.study.quality import Quality
from anysize_training.study.reference import Reference
from anysize_training.study.texts import Windows


@dataclass(frozen=True, slots=True, eq=False)
class StitchedPair:
    """A pair of causal language models whose layers do not fit each other, scored by perplexity.

    Attributes:
        name: of student and teacher.
        sides: both models.
        blocks: which of the teacher's layers each of the student's stands for.
        seams: behind every position but the last.
        tokenizer: of both.
        fingerprint: of both, and of what the seams were fitted on.
        measure: `perplexity`.
    """

    name: str
    sides: Mapping[Owner, Side]
    blocks: BlockMap
    seams: Sequence[Seam]
    tokenizer: Tokenizer
    fingerprint: dict[str, str]
    measure: str = "perplexity"

    def parameters(self, variant: Variant) -> int:
        """Inference parameters of a variant, those of its seams among them."""
        first = self.sides[variant.embedding_owner]
        parts = [*first.architecture.embeddings_of(first.model).values(), _head(self.sides[variant.head_owner])]
        for ref in variant.stack(self.blocks):
            side = self.sides[ref.owner]
            parts.append(side.architecture.layers_of(side.model)[ref.layer])
        parts += [seam for position in range(1, len(variant.choice)) if (seam := self._seam(variant, position))]
        return sum(tensor.numel() for part in parts for tensor in part.parameters())

    def scorer(self, windows: Windows) -> Score:
        """Perplexity on windows of a text, all of which are run at once."""
        tokens_NL = windows.tokens_NL.to(next(self.sides[Owner.TEACHER].model.parameters()).device)
        replays = {
            owner: Replay(side.architecture, side.model, tokens_NL[:, :-1]) for owner, side in self.sides.items()
        }
        teacher_NLD = self._run(replays, Variant.teacher(self.blocks.student_layers))
        reference = Reference(replays[Owner.TEACHER].log_probabilities, [teacher_NLD], [tokens_NL[:, 1:]])

        def score(variant: Variant) -> Quality:
            return reference.quality(replays[variant.head_owner].log_probabilities, [self._run(replays, variant)])

        return score

    def pruned(self) -> "StitchedPair":
        """There is nothing of the teacher's that is as wide as the student.

        Raises:
            SettingsError: always.
        """
        raise SettingsError("--pruned compares with the teacher's own kept layers, which --fit-text has no place for")

    @torch.inference_mode()
    def _run(self, replays: Mapping[Owner, Replay], variant: Variant) -> Tensor:
        """Hidden states in front of the final norm."""
        hidden_NLD = replays[variant.embedding_owner].embedded_NLD
        for position, patched in enumerate(variant.choice):
            if position and (seam := self._seam(variant, position)):
                hidden_NLD = seam(hidden_NLD)
            owner = Owner.TEACHER if patched else Owner.STUDENT
            hidden_NLD = replays[owner].run(hidden_NLD, self.blocks.blocks[position] if patched else [position])
        return hidden_NLD

    def _seam(self, variant: Variant, position: int) -> nn.Linear | None:
        """What stands in front of a position but the first, if anything does."""
        before, after = variant.choice[position - 1 : position + 1]
        if before == after:
            return None
        seam = self.seams[position - 1]
        return seam.to_teacher if after else seam.to_student


def _head(side: Side) -> nn.Module:
    return nn.Sequential(side.architecture.norm_of(side.model), side.architecture.head_of(side.model))
