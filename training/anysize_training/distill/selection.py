"""Which layers to keep, by measurement: the pruned teacher's KL divergence to the whole one, before any training.

Layers are dropped one by one, each time the one whose loss is felt least, and the outcome is refined by moving single
kept layers. A longest block keeps the sizes in between fine-grained: a greedy choice alone drops long runs of layers,
and what is left then has few positions to patch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from anysize.errors import SettingsError
from anysize.family.architectures import Architecture
from anysize.family.blocks import BlockMap
from anysize_training.replay import Replay, mean_kl


@dataclass(frozen=True, slots=True)
class Selection:
    """Kept layers and the mean KL(teacher || pruned teacher) of a token, in nats."""

    blocks: BlockMap
    kl: float


class KLSelection:
    """Searches for kept layers of one teacher on a small text, all of which is run at once.

    Args:
        architecture: where the teacher's parts are.
        teacher: not changed.
        inputs_NL: token ids of the calibration text.
        longest_block: the most layers that one student layer may stand for.
    """

    def __init__(
        self, architecture: Architecture, teacher: PreTrainedModel, inputs_NL: Tensor, *, longest_block: int
    ) -> None:
        self._replay = Replay(architecture, teacher, inputs_NL)
        self._layers = len(architecture.layers_of(teacher))
        self._longest_block = longest_block
        last_NLD = self._replay.run(self._replay.embedded_NLD, range(self._layers))
        self._teacher_NLV = self._replay.log_probabilities(last_NLD)

    def greedy(self, student_layers: int) -> Iterator[Selection]:
        """Drop layers down to `student_layers`, yielding the best selection at every depth on the way.

        Raises:
            SettingsError: blocks of the allowed length cannot cover the teacher with so few layers.
        """
        if student_layers * self._longest_block < self._layers or not 1 <= student_layers < self._layers:
            raise SettingsError(
                f"{student_layers} layers with blocks of at most {self._longest_block} cannot stand for {self._layers}"
            )
        kept = list(range(self._layers))
        while len(kept) > student_layers:
            candidates = list(self._without_one(kept))
            if not candidates:
                raise SettingsError(
                    f"stuck at {len(kept)} layers: no more can go with blocks of at most {self._longest_block}"
                )
            with tqdm(candidates, desc=f"{len(kept) - 1} layers", unit="try", leave=False) as progress:
                best = min((self._score(prefix_NLD, rest, blocks) for prefix_NLD, rest, blocks in progress), key=_kl)
            kept = list(best.blocks.kept)
            yield best

    def refine(self, start: Selection, *, reach: int = 3) -> Iterator[Selection]:
        """Move single kept layers by up to `reach` while that lowers the divergence, yielding each improvement."""
        best, improved = start, True
        while improved:
            improved = False
            for blocks in self._moved(best.blocks, reach):
                selection = self._score(self._replay.embedded_NLD, blocks.kept, blocks)
                if selection.kl < best.kl:
                    best, improved = selection, True
                    yield best
                    break

    def _without_one(self, kept: Sequence[int]) -> Iterator[tuple[Tensor, Sequence[int], BlockMap]]:
        prefix_NLD = self._replay.run(self._replay.embedded_NLD, kept[:1])
        for place in range(1, len(kept)):
            blocks = BlockMap((*kept[:place], *kept[place + 1 :]), self._layers)
            if blocks.longest <= self._longest_block:
                yield prefix_NLD, kept[place + 1 :], blocks
            prefix_NLD = self._replay.run(prefix_NLD, kept[place : place + 1])

    def _moved(self, blocks: BlockMap, reach: int) -> Iterator[BlockMap]:
        for place in range(1, blocks.student_layers):
            for layer in range(max(1, blocks.kept[place] - reach), min(self._layers, blocks.kept[place] + reach + 1)):
                if layer not in blocks.kept:
                    others = (*blocks.kept[:place], *blocks.kept[place + 1 :])
                    moved = BlockMap(tuple(sorted((*others, layer))), self._layers)
                    if moved.longest <= self._longest_block:
                        yield moved

    def _score(self, prefix_NLD: Tensor, rest: Sequence[int], blocks: BlockMap) -> Selection:
        ours_NLV = self._replay.log_probabilities(self._replay.run(prefix_NLD, rest))
        return Selection(blocks, mean_kl(self._teacher_NLV, ours_NLV))


def _kl(selection: Selection) -> float:
    return selection.kl
