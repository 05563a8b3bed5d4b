"""Dropping the layers that change their input least (ShortGPT, Men et al. 2024: Block Influence).

BI of a layer is 1 - E cos(input, output) over tokens, on the residual stream. Layers are ranked once, on the whole
teacher, and those with the least go. The first layer always stays, because every block map starts with it.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from anysize_training.distill.selection.partition import best_partition
from anysize_training.distill.selection.selection import Selection
from anysize_training.trail import Trail


def block_influence(trail: Trail, model: PreTrainedModel) -> Tensor:
    """Block Influence of every layer, `[layers]`, float64, on the CPU.

    Args:
        trail: of the calibration text; every token counts once.
        model: the teacher, or what is left of it.
    """
    cosines = [
        torch.stack([F.cosine_similarity(before.float(), after.float(), dim=-1) for before, after in pairwise(states)])
        for states in trail.run(model, "measuring layers")
    ]
    return 1 - torch.cat(cosines, dim=1).double().mean((1, 2)).cpu()


def select_by_influence(influence_N: Tensor, student_layers: int, *, longest_block: int) -> Selection:
    """The block map that drops the least influence in sum.

    Where no block would be too long these are the layers with the least influence, as in ShortGPT. Where one would,
    this is the best choice that is allowed, which passing over single layers of the ranking need not find.

    Args:
        influence_N: of `block_influence`.
        student_layers: M.
        longest_block: the most layers of one block.

    Raises:
        SettingsError: no block map has these numbers.
    """
    until_N = influence_N.cumsum(0)
    # A block of layers i to j drops i + 1 to j.
    dropped_NN = until_N[None, :] - until_N[:, None]
    blocks = best_partition(-dropped_NN, student_layers, longest_block=longest_block)
    return Selection(blocks, influence_N[blocks.dropped()].sum().item())
