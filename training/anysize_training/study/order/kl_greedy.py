"""KLPatch: patch next what brings the variant nearest to the teacher (arXiv 2607.08170)."""

from tqdm import tqdm

from anysize.family.variant import Variant
from anysize_training.study.order.scores import Scores


def kl_greedy(scores: Scores) -> tuple[int, ...]:
    """The positions 1..M in the order in which greed patches them, after M(M + 1)/2 evaluations.

    From the student on, that position is patched which leaves the least KL(teacher || variant); of equals the last.
    """
    positions = scores.blocks.student_layers
    order: list[int] = []
    with tqdm(total=positions * (positions + 1) // 2, desc="kl_greedy", unit="size") as progress:
        while len(order) < positions:
            found = scores.extensions(Variant.of(positions, order), progress)
            order.append(min(found, key=lambda position: (found[position].kl, -position)))
    return tuple(order)
