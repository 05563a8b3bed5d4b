"""Variants of one bank on one text, run position by position, so that a common beginning is computed once."""

from collections.abc import Callable, Collection, Iterator
from itertools import product

import torch
from torch import Tensor

from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.variant import Owner, Variant
from anysize_training.replay import Replay
from anysize_training.study.quality import Quality
from anysize_training.study.reference import Reference
from anysize_training.study.texts import Windows


class Patchwork:
    """Runs student layers and teacher blocks in turn, and scores what comes out.

    The whole text is run at once. Meant for a few thousand tokens.

    Args:
        bank: the weights.
        windows: the text.

    Attributes:
        blocks: the bank's block map.
        replay: student and teacher, layer by layer.
    """

    @torch.inference_mode()
    def __init__(self, bank: Bank, windows: Windows) -> None:
        self.blocks = bank.blocks
        tokens_NL = windows.tokens_NL.to(next(bank.teacher.parameters()).device)
        positions = bank.blocks.student_layers
        self.replay = {
            Owner.STUDENT: Replay(bank.architecture, assemble(bank, Variant.student(positions)), tokens_NL[:, :-1]),
            Owner.TEACHER: Replay(bank.architecture, assemble(bank, Variant.teacher(positions)), tokens_NL[:, :-1]),
        }
        teacher = self.replay[Owner.TEACHER]
        last_NLD = teacher.run(teacher.embedded_NLD, range(bank.blocks.teacher_layers))
        self._reference = Reference(teacher.log_probabilities, [last_NLD], [tokens_NL[:, 1:]])

    def run(self, hidden_NLD: Tensor | None, position: int, *, patched: bool) -> Tensor:
        """Hidden states behind a position, counted from 0.

        Args:
            hidden_NLD: in front of it; not looked at for position 0, whose owner's embedding comes first.
            position: which.
            patched: whether the teacher's block stands there.
        """
        replay = self.replay[Owner.TEACHER if patched else Owner.STUDENT]
        if position == 0:
            hidden_NLD = replay.embedded_NLD
        assert hidden_NLD is not None
        return replay.run(hidden_NLD, self.blocks.blocks[position] if patched else [position])

    def finish(self, variant: Variant, hidden_NLD: Tensor | None, position: int) -> Quality:
        """The quality of a variant, of which the hidden states in front of a position are known."""
        for number in range(position, len(variant.choice)):
            hidden_NLD = self.run(hidden_NLD, number, patched=variant.choice[number])
        assert hidden_NLD is not None
        return self._reference.quality(self.replay[variant.head_owner].log_probabilities, [hidden_NLD])

    def quality(self, variant: Variant) -> Quality:
        """The quality of a variant."""
        return self.finish(variant, None, 0)

    def subsets(
        self, free: Collection[int], is_wanted: Callable[[Variant], bool] = lambda _variant: True
    ) -> Iterator[tuple[Variant, Quality]]:
        """Every way to patch some positions, with its quality; the other positions are left to the student.

        The tree of choices is walked from the first position to the last, so that variants with a common beginning
        share its hidden states.

        Args:
            free: the positions, counted from 0.
            is_wanted: variants that it refuses are passed over, and what only they need is not computed.
        """
        yield from self._below(
            None,
            (),
            [(False, True) if position in free else (False,) for position in range(self.blocks.student_layers)],
            is_wanted,
        )

    def _below(
        self,
        hidden_NLD: Tensor | None,
        choice: tuple[bool, ...],
        choices: list[tuple[bool, ...]],
        is_wanted: Callable[[Variant], bool],
    ) -> Iterator[tuple[Variant, Quality]]:
        if not choices:
            yield Variant(choice), self.finish(Variant(choice), hidden_NLD, len(choice))
            return
        for patched in choices[0]:
            below = (*choice, patched)
            if any(is_wanted(Variant(below + rest)) for rest in product(*choices[1:])):
                behind_NLD = self.run(hidden_NLD, len(choice), patched=patched)
                yield from self._below(behind_NLD, below, choices[1:], is_wanted)
