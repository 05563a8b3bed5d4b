"""Hidden states at block ends, and the cosine distance between student and teacher (paper, 2.2)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize.family.blocks import BlockMap
from anysize_training.distill.recipe import Objective


def block_ends(blocks: BlockMap) -> tuple[int, ...]:
    """For each student layer the teacher layer whose output it should match: the last of its block (l_{i+1} - 1)."""
    return tuple(block[-1] for block in blocks.blocks)


class HiddenStates(nn.Module):
    """A model that returns hidden states instead of logits: the final ones, and those that are aligned.

    Args:
        architecture: where the model's parts are.
        model: run as it is; no parameter is copied.
        layers: the layers whose outputs are aligned, increasing.
        objective: whether the embedding output is aligned too, and the last output before or after the final norm.
        checkpointing: keep only the inputs of layers for the backward pass, and run each layer again there.
    """

    def __init__(
        self,
        architecture: Architecture,
        model: PreTrainedModel,
        layers: Sequence[int],
        objective: Objective,
        *,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self._architecture = architecture
        self._wanted = tuple(layers)
        self._objective = objective
        self._checkpointing = checkpointing

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The decoder layers."""
        return self._architecture.layers_of(self.model)

    @property
    def head(self) -> nn.Linear:
        """The LM head, which has no bias in any supported architecture."""
        head = self._architecture.head_of(self.model)
        assert isinstance(head, nn.Linear)
        assert head.bias is None
        return head

    def forward(self, inputs_BL: Tensor, positions_BL: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Run the model.

        Args:
            inputs_BL: token ids.
            positions_BL: of each token in its document, which attends to itself alone; None for one document a row.

        Returns:
            The hidden states after the final norm, `[B, L, D]`, and the aligned ones, each `[B, L, D]`.
        """
        first = bool(self._wanted) and self._objective.embedding_pair
        with _recorded(self.layers, self._wanted, embedding=first) as states, _checkpointed(self.layers, self._active):
            output = self._architecture.backbone_of(self.model)(
                input_ids=inputs_BL, position_ids=positions_BL, use_cache=False
            )
        hidden_BLD = output.last_hidden_state
        if self._wanted and self._objective.last_pair == "after_norm":
            states[-1] = hidden_BLD
        return hidden_BLD, states

    @property
    def _active(self) -> bool:
        return self._checkpointing and any(parameter.requires_grad for parameter in self.parameters())


def cosine_distance(student_BLD: Tensor, teacher_BLD: Tensor, is_counted_BL: Tensor) -> Tensor:
    """1 - cosine similarity, summed over the counted tokens, in float32 (paper, 2.2, the alignment loss)."""
    similarity_BL = F.cosine_similarity(student_BLD.float(), teacher_BLD.float(), dim=-1)
    return ((1 - similarity_BL) * is_counted_BL).sum()


@contextmanager
def _recorded(layers: Sequence[nn.Module], wanted: Sequence[int], *, embedding: bool) -> Iterator[list[Tensor]]:
    """Record some layers' outputs, and the first one's input if asked for, while a model runs; nothing else is kept."""
    states: list[Tensor] = []

    def record_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        states.append(inputs[0])

    def record(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handles = [layers[0].register_forward_pre_hook(record_input)] if embedding else []
    handles += [layers[index].register_forward_hook(record) for index in wanted]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _checkpointed(layers: Sequence[nn.Module], active: bool) -> Iterator[None]:
    """Layers keep only their inputs while a model runs; hooks stay outside, so the second run fires none of them."""
    if not active:
        yield
        return
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
