"""LaCo (Yang et al. 2024; paper, Appendix N): runs of layers are merged into their first one.

Two readings, which are not the same:

- `equation`: Equation 4 of the paper. Merging the C layers behind layer l makes it theta_l + sum_i (theta_{l+i} -
  theta_l), i from 1 to C, for every tensor.
- `official`: what the published notebooks do. C - 1 layers are merged, and each difference is taken to the layer as it
  already was changed, so that the sum telescopes: every linear map becomes that of the last merged layer, while norms
  stay those of the first.

Both walk down from the highest layer that has so many behind it and keep a merge if the merged model's last hidden
states are like the teacher's: the cosine of one text's states, after the final norm and as one long vector, is greater
than T on average over texts. After a merge the walk goes down by the interval, otherwise by one. A merge so never
touches layers below it that were merged before, but may merge merged ones again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize_training.replay import Replay
from anysize_training.stack import Stack, StackLayer, build, merged, plain_stack

Reading = Literal["equation", "official"]

_LOWEST, _INTERVAL = 1, 2


@dataclass(frozen=True, slots=True)
class Merge:
    """What a run of LaCo has made once it has kept a merge.

    Attributes:
        merged: C of the run.
        threshold: T of the run.
        folds: each merge so far: the place in the stack at that time, and how many layers behind it went into it.
        stack: what is left.
        similarity: of its last hidden states to the teacher's.
        is_last: whether the run merges nothing more: only this is LaCo's own result.
    """

    merged: int
    threshold: float
    folds: tuple[tuple[int, int], ...]
    stack: Stack
    similarity: float
    is_last: bool


def table_4() -> list[tuple[int, float]]:
    """C and T of every run of the paper's sweep (Table 4)."""
    return [*product((3, 4, 5, 6), (0.95, 0.85, 0.75, 0.65, 0.55, 0.45))]


def fold(stack: Stack, place: int, count: int, reading: Reading) -> Stack:
    """Merge the `count` layers behind a place into the layer there.

    Args:
        stack: with so many behind it.
        place: counted from 0.
        count: at least 1.
        reading: `equation` or `official`.
    """
    behind = stack[place + 1 : place + 1 + count]
    assert len(behind) == count
    base = stack[place]
    made = StackLayer(base.base, behind[-1].maps, base.rest) if reading == "official" else merged(base, behind)
    return (*stack[:place], made, *stack[place + 1 + count :])


class LaCo:
    """Merges layers of one teacher, judged on one small text. Runs share what they measure.

    The teacher's hidden states between all layers are kept: 4 bytes for each token, layer and hidden dimension.

    Args:
        architecture: where the teacher's parts are.
        teacher: not changed.
        inputs_NL: token ids of N texts.
        reading: `equation` or `official`.

    Attributes:
        reading: as given.
    """

    @torch.inference_mode()
    def __init__(
        self, architecture: Architecture, teacher: PreTrainedModel, inputs_NL: Tensor, reading: Reading
    ) -> None:
        self._architecture = architecture
        self._teacher = teacher
        self._inputs_NL = inputs_NL
        self.reading: Reading = reading
        self._layers = len(architecture.layers_of(teacher))
        self._known: dict[Stack, float] = {}
        replay = Replay(architecture, teacher, inputs_NL)
        self._before = [replay.embedded_NLD]
        for layer in range(self._layers):
            self._before.append(replay.run(self._before[-1], [layer]))
        self._last_NLD = architecture.norm_of(teacher)(self._before[-1])

    def run(
        self, merged: int, threshold: float, *, lowest: int = _LOWEST, interval: int = _INTERVAL
    ) -> Iterator[Merge]:
        """One run from the whole teacher down, yielding what is left after each merge that is kept.

        Args:
            merged: C.
            threshold: T.
            lowest: L, the lowest layer that others are merged into, counted from 0.
            interval: I, how far down the walk goes after a merge.
        """
        count = merged if self.reading == "equation" else merged - 1
        stack, folds = plain_stack(range(self._layers)), ()
        place = self._layers - 1 - count
        kept: Merge | None = None
        while place >= lowest:
            behind = min(count, len(stack) - 1 - place)
            tried = fold(stack, place, behind, self.reading)
            similarity = self.similarity(tried)
            if similarity > threshold:
                if kept is not None:
                    yield kept
                stack, folds = tried, (*folds, (place, behind))
                kept = Merge(merged, threshold, folds, stack, similarity, is_last=False)
                place -= interval
            else:
                place -= 1
        if kept is not None:
            yield Merge(merged, threshold, kept.folds, kept.stack, kept.similarity, is_last=True)

    @torch.inference_mode()
    def similarity(self, stack: Stack) -> float:
        """How alike a stack's last hidden states and the teacher's are: mean cosine of a text."""
        if stack not in self._known:
            model = build(self._teacher, self._architecture, stack)
            same = next(place for place, layer in enumerate(stack) if layer != StackLayer.of(place))
            replay = Replay(self._architecture, model, self._inputs_NL)
            hidden_NLD = replay.run(self._before[same], range(same, len(stack)))
            last_NLD = self._architecture.norm_of(model)(hidden_NLD)
            ours, theirs = last_NLD.float().flatten(1), self._last_NLD.float().flatten(1)
            self._known[stack] = F.cosine_similarity(ours, theirs, dim=-1).mean().item()
        return self._known[stack]
