"""Hidden states at block ends, and the cosine distance between student and teacher (paper, 2.2)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional as F

from anysize.family.blocks import BlockMap


def block_ends(blocks: BlockMap) -> tuple[int, ...]:
    """For each student layer the teacher layer whose output it should match: the last of its block (l_{i+1} - 1)."""
    return tuple(block[-1] for block in blocks.blocks)


@contextmanager
def recorded(layers: Sequence[nn.Module], wanted: Sequence[int]) -> Iterator[list[Tensor]]:
    """Record the outputs of some layers while a model runs; no other hidden state is kept.

    Args:
        layers: a model's decoder layers.
        wanted: indices of the layers to record, increasing.

    Yields:
        A list that fills with one `[B, L, D]` tensor for each wanted layer, in order, once a forward pass has run.
    """
    outputs: list[Tensor] = []

    def record(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [layers[index].register_forward_hook(record) for index in wanted]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def cosine_distance(student_BLD: Tensor, teacher_BLD: Tensor) -> Tensor:
    """1 - cosine similarity, summed over tokens, in float32 (paper, 2.2, the alignment loss)."""
    return (1 - F.cosine_similarity(student_BLD.float(), teacher_BLD.float(), dim=-1)).sum()
