"""How alike the last layer of a size and of the teacher are, the more positions are patched (paper, Figure 27)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.variant import Variant
from anysize_training.distill.alignment import HiddenStates
from anysize_training.distill.recipe import Objective

_BATCH = 4


@dataclass(frozen=True, slots=True)
class LastLayer:
    """How alike a variant's last hidden states and the teacher's are: mean cosine over tokens.

    Attributes:
        variant: which.
        cosine: of what the last layers give.
        cosine_after_norm: of what each model's own final norm makes of it, which the LM head reads.
    """

    variant: Variant
    cosine: float
    cosine_after_norm: float


@torch.inference_mode()
def last_layers(bank: Bank, variants: Sequence[Variant], inputs_NL: Tensor) -> list[LastLayer]:
    """Measure variants of a bank.

    Args:
        bank: the weights.
        variants: in the order of the results.
        inputs_NL: token ids of N windows.
    """
    teacher = _last_states(bank, Variant.teacher(bank.blocks.student_layers), inputs_NL)
    found: list[LastLayer] = []
    for variant in tqdm(variants, desc="last layers", unit="size", leave=False):
        totals = [0.0, 0.0]
        for batch in zip(_last_states(bank, variant, inputs_NL), teacher, strict=True):
            for which, (ours_BLD, theirs_BLD) in enumerate(zip(*batch, strict=True)):
                cosine_BL = F.cosine_similarity(ours_BLD.float(), theirs_BLD.float(), dim=-1)
                totals[which] += cosine_BL.double().sum().item()
        before, after = (total / inputs_NL.numel() for total in totals)
        found.append(LastLayer(variant, before, after))
    return found


def _last_states(bank: Bank, variant: Variant, inputs_NL: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What the last layer gives and what the final norm makes of it, `[B, L, D]` each, batch by batch."""
    model = HiddenStates(bank.architecture, assemble(bank, variant), [variant.depth(bank.blocks) - 1], Objective())
    states: list[tuple[Tensor, Tensor]] = []
    for batch_BL in inputs_NL.split(_BATCH):
        normed_BLD, (last_BLD,) = model(batch_BL, None)
        states.append((last_BLD, normed_BLD))
    return states
