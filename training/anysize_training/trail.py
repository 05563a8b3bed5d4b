"""Running one model after the other on a fixed text, where a common beginning is run once."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize_training.replay import Replay

_KEPT_BYTES = 1 << 30


class Trail:
    """Hidden states between the layers of the model that was last run.

    The next model starts behind the layers that it has in common with it, so models in the order of their layers cost
    only where they branch. Layers are the same if they hold the same tensors.

    Args:
        architecture: where the models' parts are.
        inputs_NL: token ids of N windows.
        batch: windows run at once.
        kept_bytes: of hidden states; batches for which there is no room are run from the embedding on.
    """

    def __init__(
        self, architecture: Architecture, inputs_NL: Tensor, *, batch: int = 4, kept_bytes: int = _KEPT_BYTES
    ) -> None:
        self._architecture = architecture
        self._batches = inputs_NL.split(batch)
        self._kept_bytes = kept_bytes
        self._parts: list[list[Tensor]] = []
        self._states: list[list[Tensor]] = [[] for _ in self._batches]

    @torch.inference_mode()
    def run(self, model: PreTrainedModel, name: str) -> Iterator[list[Tensor]]:
        """The hidden states of each batch: what the first layer is given, then what each layer gives.

        All batches are to be taken before the next model is run.

        Args:
            model: any of the architecture, without any training going on.
            name: for the progress bar.
        """
        parts = self._parts_of(model)
        same = _common(self._parts, parts)
        # Whoever stops half-way finds nothing that would be taken for another model's.
        states, self._states, self._parts = self._states, [[] for _ in self._batches], parts
        kept_bytes = 0
        for number, batch_BL in enumerate(tqdm(self._batches, desc=name, unit="batch", leave=False)):
            replay = Replay(self._architecture, model, batch_BL)
            found = states[number][:same] or [replay.embedded_NLD]
            states[number] = []
            for layer in range(len(found) - 1, len(parts) - 1):
                found.append(replay.run(found[-1], [layer]))
            kept_bytes += sum(state.nbytes for state in found)
            if kept_bytes <= self._kept_bytes:
                self._states[number] = found
            yield found

    def _parts_of(self, model: PreTrainedModel) -> list[list[Tensor]]:
        """The tensors of the embedding, and those of each layer. They stay alive, so none is taken for a later one."""
        embeddings = nn.ModuleDict(self._architecture.embeddings_of(model))
        return [[*part.parameters(), *part.buffers()] for part in (embeddings, *self._architecture.layers_of(model))]


def _common(ours: Sequence[Sequence[Tensor]], theirs: Sequence[Sequence[Tensor]]) -> int:
    """With how many parts of the same tensors both begin."""
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if len(one) != len(other) or any(a is not b for a, b in zip(one, other, strict=True)):
            return number
    return min(len(ours), len(theirs))
