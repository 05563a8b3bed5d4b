"""Greed on KL divergence: KLPatch (arXiv 2607.08170), for blocks of any length."""

from tqdm import tqdm

from anysize.family.variant import Variant
from anysize_training.study.order.scores import Scores


def kl_greedy(scores: Scores) -> tuple[int, ...]:
    """The positions 1..M in the order in which greed patches them, after M(M + 1)/2 evaluations and the student's.

    From the student on, that position is patched which takes most from KL(teacher || variant) for each layer that it
    adds. With blocks of one length that is KLPatch, which takes what is nearest to the teacher; with blocks of several
    KLPatch itself would take the longest first. Blocks of one layer add none: one that takes anything comes at once,
    one that takes nothing at the end. Of equals the last position comes first.
    """
    positions = scores.blocks.student_layers
    order: list[int] = []
    with tqdm(total=positions * (positions + 1) // 2, desc="kl_greedy", unit="size") as progress:
        while len(order) < positions:
            variant = Variant.of(positions, order)
            now = scores.quality(variant).kl
            found = scores.extensions(variant, progress)
            order.append(
                max(found, key=lambda position: (*_worth(scores, position, now - found[position].kl), position))
            )
    return tuple(order)


def _worth(scores: Scores, position: int, gain: float) -> tuple[int, float]:
    added = len(scores.blocks.blocks[position - 1]) - 1
    if added:
        return 1, gain / added
    return (2 if gain > 0 else 0), gain
