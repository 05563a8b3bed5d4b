"""How alike the outputs of layers are: all student layers and all teacher layers (paper, Figures 23, 25 and 26)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.variant import Variant
from anysize_training.distill.selection.states import residual_states


def student_similarity(bank: Bank, inputs_NL: Tensor) -> Tensor:
    """Cosine between the output of every student layer and of every teacher layer, mean over tokens.

    Each model runs by itself, from its own embedding. Outputs are the residual stream, before the final norm.

    Args:
        bank: student and teacher.
        inputs_NL: token ids of N windows.

    Returns:
        `[M, N]`, float64, on the CPU.
    """
    positions = bank.blocks.student_layers
    total_MN = torch.zeros(positions, bank.blocks.teacher_layers, dtype=torch.float64)
    states = (
        residual_states(bank.architecture, assemble(bank, variant), inputs_NL)
        for variant in (Variant.student(positions), Variant.teacher(positions))
    )
    for pair in zip(*states, strict=True):
        ours, theirs = (F.normalize(states_SBLD[1:].float(), dim=-1).flatten(1) for states_SBLD in pair)
        total_MN += (ours @ theirs.T).double().cpu()
    return total_MN / inputs_NL.numel()
