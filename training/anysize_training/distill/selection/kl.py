"""Which layers to keep by the pruned teacher's KL divergence to the whole one.

Layers are dropped one by one, each time the one whose loss is felt least, and the outcome is refined by moving single
kept layers. A longest block keeps the sizes in between fine-grained: a greedy choice alone drops long runs of layers,
and what is left then has few positions to patch.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize.family.blocks import BlockMap
from anysize_training.distill.selection.pruned import PrunedTeacher
from anysize_training.distill.selection.selection import Selection, check_fits


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
        self._pruned = PrunedTeacher(architecture, teacher, inputs_NL)
        self._layers = self._pruned.layers
        self._longest_block = longest_block

    def best(self, student_layers: int) -> Selection:
        """The outcome of the whole search: no move of a single kept layer by up to three makes it better.

        Raises:
            SettingsError: no block map has these numbers.
        """
        *_, greedy = self.greedy(student_layers)
        *_, best = (greedy, *self.refine(greedy))
        return best

    def greedy(self, student_layers: int) -> Iterator[Selection]:
        """Drop layers down to `student_layers`, yielding the best selection at every depth on the way.

        Raises:
            SettingsError: no block map has these numbers.
        """
        check_fits(self._layers, student_layers, self._longest_block)
        kept: Sequence[int] = range(self._layers)
        trials = sum(range(student_layers, self._layers))
        with tqdm(total=trials, desc="dropping layers by KL", unit="try", leave=False) as progress:
            while len(kept) > student_layers:
                best: tuple[float, BlockMap] | None = None
                for place, prefix_NLD in self._prefixes(kept):
                    blocks = BlockMap((*kept[:place], *kept[place + 1 :]), self._layers)
                    if self._leads_to(blocks.kept, student_layers):
                        kl = self._pruned.kl_behind(prefix_NLD, kept[place + 1 :])
                        best = (kl, blocks) if best is None or kl < best[0] else best
                    progress.update()
                assert best is not None, "the layers that a student of this size needs were never dropped"
                kept = best[1].kept
                progress.set_postfix(layers=len(kept), kl=f"{best[0]:.3f}")
                yield Selection(best[1], best[0])

    def refine(self, start: Selection, *, reach: int = 3) -> Iterator[Selection]:
        """Move single kept layers by up to `reach` while that lowers the divergence, yielding each improvement."""
        best, improved = start, True
        prefixes = [prefix_NLD for _, prefix_NLD in self._prefixes(best.blocks.kept)]
        with tqdm(desc="moving kept layers", unit="try", leave=False) as progress:
            while improved:
                improved = False
                for place in range(1, best.blocks.student_layers):
                    for blocks in self._moved(best.blocks, place, reach):
                        same = _common(blocks.kept, best.blocks.kept)
                        kl = self._pruned.kl_behind(prefixes[same - 1], blocks.kept[same:])
                        progress.update()
                        assert best.score is not None
                        if kl < best.score:
                            best, improved = Selection(blocks, kl), True
                            prefixes = [prefix_NLD for _, prefix_NLD in self._prefixes(blocks.kept)]
                            progress.set_postfix(kl=f"{kl:.3f}")
                            yield best
                            break

    def _prefixes(self, kept: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        prefix_NLD = self._pruned.run(self._pruned.embedded_NLD, kept[:1])
        for place in range(1, len(kept)):
            yield place, prefix_NLD
            prefix_NLD = self._pruned.run(prefix_NLD, kept[place : place + 1])

    def _leads_to(self, kept: Sequence[int], student_layers: int) -> bool:
        """Whether layers can go on being dropped from `kept` until so few are left."""
        start, needed = 0, 1
        while start + self._longest_block < self._layers:
            further = max(layer for layer in kept if layer <= start + self._longest_block)
            if further == start:
                return False
            start, needed = further, needed + 1
        return needed <= student_layers

    def _moved(self, blocks: BlockMap, place: int, reach: int) -> Iterator[BlockMap]:
        layer = blocks.kept[place]
        others = (*blocks.kept[:place], *blocks.kept[place + 1 :])
        for target in range(max(1, layer - reach), min(self._layers, layer + reach + 1)):
            if target not in blocks.kept:
                moved = BlockMap(tuple(sorted((*others, target))), self._layers)
                if moved.longest <= self._longest_block:
                    yield moved


def _common(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many layers two unequal lists of kept layers begin with alike."""
    return next(place for place, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other)
