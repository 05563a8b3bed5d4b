"""Patch orders by how alike student and teacher are: the outputs of a student layer and of the block it stands for."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from anysize.family.variant import Owner
from anysize_training.study.patchwork import Patchwork


@torch.inference_mode()
def cosine_similarities(patchwork: Patchwork) -> tuple[float, ...]:
    """For each position, how alike the student's hidden states behind it and the teacher's are (paper, Appendix I).

    Each model runs by itself, from its own embedding; the last pair is taken before the final norm. Means over all
    tokens of the text.
    """
    student, teacher = (patchwork.replay[owner] for owner in Owner)
    ours_NLD, theirs_NLD = student.embedded_NLD, teacher.embedded_NLD
    found: list[float] = []
    for position, block in enumerate(patchwork.blocks.blocks):
        ours_NLD = student.run(ours_NLD, [position])
        theirs_NLD = teacher.run(theirs_NLD, block)
        found.append(F.cosine_similarity(ours_NLD.float(), theirs_NLD.float(), dim=-1).mean().item())
    return tuple(found)


def cosine_order(similarities: Sequence[float], *, low_first: bool) -> tuple[int, ...]:
    """The positions 1..M by similarity.

    Args:
        similarities: of each position.
        low_first: those that differ most first (paper, Appendix I) or those that are most alike first (paper,
            Appendix E.1 and J). Of equals the last comes first.
    """
    sign = 1 if low_first else -1
    return tuple(sorted(range(1, len(similarities) + 1), key=lambda one: (sign * similarities[one - 1], -one)))
