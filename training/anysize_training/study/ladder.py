"""The best subset of positions for each size, by KL divergence to the teacher: a ladder that need not be nested.

Sizes reachable by patching are few, subsets many. All subsets of the blocks of more than one layer are scored, with
blocks of one layer left to the student, by walking the tree of choices from the first position to the last, so that
variants with a common beginning share its hidden states. Blocks of one layer change no size; for the best subset of
each size all ways to patch them are then tried.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from torch import Tensor
from tqdm import tqdm

from anysize.errors import SettingsError
from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.variant import Owner, Variant
from anysize_training.replay import Replay, mean_kl
from anysize_training.study.texts import Windows

_MOST_POSITIONS = 14
_MOST_SINGLE = 8


@dataclass(frozen=True, slots=True)
class Scored:
    """A variant and its mean KL(teacher || variant) of a token, in nats."""

    variant: Variant
    kl: float


class LadderSearch:
    """Scores variants of one bank on a small text, all of which is run at once.

    Args:
        bank: the weights.
        windows: the calibration text.

    Raises:
        SettingsError: the family has too many positions to try every subset.
    """

    def __init__(self, bank: Bank, windows: Windows) -> None:
        self._map = bank.blocks
        self._blocks = bank.blocks.blocks
        self._free = frozenset(position for position, block in enumerate(self._blocks) if len(block) > 1)
        if len(self._free) > _MOST_POSITIONS:
            raise SettingsError(
                f"{len(self._free)} positions make 2^{len(self._free)} subsets; at most {_MOST_POSITIONS} can be tried"
            )
        positions = len(self._blocks)
        if positions - len(self._free) > _MOST_SINGLE:
            raise SettingsError(
                f"{positions - len(self._free)} blocks of one layer; at most {_MOST_SINGLE} can be tried"
            )
        inputs_NL = windows.tokens_NL[:, :-1].to(next(bank.teacher.parameters()).device)
        self._replay = {
            Owner.STUDENT: Replay(bank.architecture, assemble(bank, Variant.student(positions)), inputs_NL),
            Owner.TEACHER: Replay(bank.architecture, assemble(bank, Variant.teacher(positions)), inputs_NL),
        }
        teacher = self._replay[Owner.TEACHER]
        last_NLD = teacher.run(teacher.embedded_NLD, range(bank.blocks.teacher_layers))
        self._teacher_NLV = teacher.log_probabilities(last_NLD)

    def best(self) -> dict[int, Scored]:
        """For each depth that patching reaches, the variant with the least KL divergence.

        Student and teacher themselves always stand for their own depths.
        """
        best: dict[int, Scored] = {}
        with tqdm(total=2 ** len(self._free), desc="trying subsets", unit="size") as progress:
            for scored in self._below(self._replay[Owner.STUDENT].embedded_NLD, ()):
                progress.update()
                self._keep(best, scored)
        single = [position for position in range(len(self._blocks)) if position not in self._free]
        between = [scored for _, scored in sorted(best.items())][1:-1]
        for leader in tqdm(between, desc="single-layer blocks", unit="size"):
            for choices in product((False, True), repeat=len(single)):
                choice = list(leader.variant.choice)
                for position, patched in zip(single, choices, strict=True):
                    choice[position] = patched
                if any(choices):
                    self._keep(best, self.score(Variant(tuple(choice))))
        return dict(sorted(best.items())) | {self._map.teacher_layers: self.score(Variant.teacher(len(self._blocks)))}

    def score(self, variant: Variant) -> Scored:
        """Score one variant."""
        hidden_NLD = self._replay[variant.embedding_owner].embedded_NLD
        for position, patched in enumerate(variant.choice):
            hidden_NLD = self._run(hidden_NLD, position, patched=patched)
        return self._scored(variant, hidden_NLD)

    def _below(self, hidden_NLD: Tensor, choice: tuple[bool, ...]) -> Iterator[Scored]:
        position = len(choice)
        if position == len(self._blocks):
            yield self._scored(Variant(choice), hidden_NLD)
            return
        for patched in (False, True) if position in self._free else (False,):
            # The embedding belongs to the owner of the first layer.
            start_NLD = self._replay[Owner.TEACHER].embedded_NLD if position == 0 and patched else hidden_NLD
            yield from self._below(self._run(start_NLD, position, patched=patched), (*choice, patched))

    def _run(self, hidden_NLD: Tensor, position: int, *, patched: bool) -> Tensor:
        if patched:
            return self._replay[Owner.TEACHER].run(hidden_NLD, self._blocks[position])
        return self._replay[Owner.STUDENT].run(hidden_NLD, [position])

    def _scored(self, variant: Variant, hidden_NLD: Tensor) -> Scored:
        ours_NLV = self._replay[variant.head_owner].log_probabilities(hidden_NLD)
        return Scored(variant, mean_kl(self._teacher_NLV, ours_NLV))

    def _keep(self, best: dict[int, Scored], scored: Scored) -> None:
        depth = scored.variant.depth(self._map)
        if depth not in best or scored.kl < best[depth].kl:
            best[depth] = scored


def falling(best: Mapping[int, Scored]) -> list[Scored]:
    """The sizes worth serving: each is closer to the teacher than every smaller one."""
    kept: list[Scored] = []
    for _, scored in sorted(best.items()):
        if not kept or scored.kl < kept[-1].kl:
            kept.append(scored)
    return kept
