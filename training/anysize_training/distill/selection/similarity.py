"""Blocks whose first and last layers have similar outputs (paper, E.2, where they were picked by hand).

Student layer i starts as the first layer of block i and is to give what the last layer gives. The nearer the two are
before any training, the less is left to learn, and the less a patch changes what the layers above are given.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize_training.distill.selection.partition import best_partition
from anysize_training.distill.selection.selection import Selection
from anysize_training.distill.selection.states import residual_states


def pairwise_similarity(architecture: Architecture, teacher: PreTrainedModel, inputs_NL: Tensor) -> Tensor:
    """Cosine between the outputs of every two layers, mean over tokens.

    Outputs are the residual stream, before the final norm. Every token counts once, the first of a window among them,
    as in the paper: norms do not enter a cosine, so that the massive activations of the first position weigh no more
    than any other token.

    Args:
        architecture: where the teacher's parts are.
        teacher: not changed.
        inputs_NL: token ids of the calibration text.

    Returns:
        `[layers, layers]`, float64, on the CPU.
    """
    layers = len(architecture.layers_of(teacher))
    total_NN = torch.zeros(layers, layers, dtype=torch.float64)
    for states_SBLD in residual_states(architecture, teacher, inputs_NL):
        directions = F.normalize(states_SBLD[1:].float(), dim=-1).flatten(1)
        total_NN += (directions @ directions.T).double().cpu()
    return total_NN / inputs_NL.numel()


def select_by_similarity(similarity_NN: Tensor, student_layers: int, *, longest_block: int) -> Selection:
    """The block map with the greatest sum, over blocks, of the cosine between first and last output.

    The sum, because each block is one distance of the alignment loss, which sums them too. Raising the least cosine
    instead spreads the blocks evenly, and was worse: SmolLM2-135M pruned to 16 and 11 layers so had a KL divergence of
    5.8 and 8.6 nats, against 4.4 and 5.4 for the sum. Counting the first position of a window as half of the mean gave
    2.8 and 6.7, no gain at both sizes. (Blocks of at most 5; 512 tokens to calibrate on, 512 others to score on.)

    Args:
        similarity_NN: of `pairwise_similarity`.
        student_layers: M.
        longest_block: the most layers of one block.

    Raises:
        SettingsError: no block map has these numbers.
    """
    blocks = best_partition(similarity_NN, student_layers, longest_block=longest_block)
    cosines = [similarity_NN[block[0], block[-1]].item() for block in blocks.blocks]
    return Selection(blocks, sum(cosines) / student_layers)
