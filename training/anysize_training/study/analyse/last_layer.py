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
from anysize_training.study.evaluate import by_beginning
from anysize_training.trail import Trail


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
    trail = Trail(bank.architecture, inputs_NL)
    teacher = _last_states(trail, bank, Variant.teacher(bank.blocks.student_layers))
    found: dict[Variant, LastLayer] = {}
    for variant in tqdm(by_beginning(variants), desc="last layers", unit="size", leave=False):
        before, after = (
            F.cosine_similarity(ours_TD.float(), theirs_TD.float(), dim=-1).double().mean().item()
            for ours_TD, theirs_TD in zip(_last_states(trail, bank, variant), teacher, strict=True)
        )
        found[variant] = LastLayer(variant, before, after)
    return [found[variant] for variant in variants]


def _last_states(trail: Trail, bank: Bank, variant: Variant) -> tuple[Tensor, Tensor]:
    """What the last layer gives and what the final norm makes of it, `[T, D]` each."""
    model = assemble(bank, variant)
    last_TD = torch.cat([states[-1].flatten(0, 1) for states in trail.run(model, variant.id)])
    return last_TD, bank.architecture.norm_of(model)(last_TD)
