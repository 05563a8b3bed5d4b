"""The best subset of positions for each size, by KL divergence to the teacher: a ladder that need not be nested.

Sizes reachable by patching are few, subsets many. All subsets of the blocks of more than one layer are scored, with
blocks of one layer left to the student, by walking the tree of choices from the first position to the last, so that
variants with a common beginning share its hidden states. Blocks of one layer change no size; for the best subset of
each size all ways to patch them are then tried.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from tqdm import tqdm

from anysize.errors import SettingsError
from anysize.family.bank import Bank
from anysize.family.blocks import BlockMap
from anysize.family.variant import Variant
from anysize_training.study.patchwork import Patchwork
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
        self._patchwork = Patchwork(bank, windows)

    def best(self) -> dict[int, Scored]:
        """For each depth that patching reaches, the variant with the least KL divergence.

        Student and teacher themselves always stand for their own depths.
        """
        subsets = self._patchwork.subsets(self._free)
        scored = [
            Scored(variant, quality.kl)
            for variant, quality in tqdm(subsets, desc="trying subsets", unit="size", total=2 ** len(self._free))
        ]
        between = list(best_of_each_depth(scored, self._map).values())[1:-1]
        single = [position for position in range(len(self._blocks)) if position not in self._free]
        for leader in tqdm(between, desc="single-layer blocks", unit="size"):
            for choices in product((False, True), repeat=len(single)):
                choice = list(leader.variant.choice)
                for position, patched in zip(single, choices, strict=True):
                    choice[position] = patched
                if any(choices):
                    scored.append(self.score(Variant(tuple(choice))))
        scored.append(self.score(Variant.teacher(len(self._blocks))))
        return best_of_each_depth(scored, self._map)

    def score(self, variant: Variant) -> Scored:
        """Score one variant."""
        return Scored(variant, self._patchwork.quality(variant).kl)


def best_of_each_depth(scored: Iterable[Scored], blocks: BlockMap) -> dict[int, Scored]:
    """The variant with the least KL divergence for each number of layers, from few to many.

    Student and teacher themselves stand for their own depths, where they are among them.
    """
    best: dict[int, Scored] = {}
    ends = (Variant.student(blocks.student_layers), Variant.teacher(blocks.student_layers))
    for one in scored:
        depth = one.variant.depth(blocks)
        if depth not in best or one.variant in ends or (best[depth].variant not in ends and one.kl < best[depth].kl):
            best[depth] = one
    return dict(sorted(best.items()))


def falling(best: Mapping[int, Scored]) -> list[Scored]:
    """The sizes worth serving: each is closer to the teacher than every smaller one."""
    kept: list[Scored] = []
    for _, scored in sorted(best.items()):
        if not kept or scored.kl < kept[-1].kl:
            kept.append(scored)
    return kept
