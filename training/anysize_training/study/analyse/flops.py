"""What a family's sizes cost in FLOPs: to run, and to be distilled one by one instead of once (paper, Table 3).

The closed forms are those of `anysize_training.study.plan`: twice the parameters of layers, final norm and LM head for
a token's forward pass. Attention scores are left out, so what torch counts is larger by them: 4 L D a token and layer
for L tokens in a window and D dimensions of all heads together.
"""

from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.family import Family
from anysize.family.manifest import FullStudent
from anysize.family.variant import Variant
from anysize_training.distill.recipe_files import load_recipe
from anysize_training.study.plan import Flops, Plan, flops_of_token, make_plan

_PAPER_RECIPES = ("paper-qwen3-4b", "paper-pythia-2.8b", "paper-llama-3.2-3b")


@dataclass(frozen=True, slots=True)
class SizeFlops:
    """FLOPs of one size for one token.

    Attributes:
        variant: which.
        layers: its depth.
        forward: closed form.
        counted_forward: what torch counts in a forward pass, attention scores among it.
        distillation: of a training step of a student of this depth, in closed form.
    """

    variant: str
    layers: int
    forward: int
    counted_forward: float
    distillation: int


@dataclass(frozen=True, slots=True)
class FamilyFlops:
    """FLOPs of a family.

    Attributes:
        tokens: that the student's run, or its last lesson, was distilled on; 1 where the family does not say.
        sizes: of the ladder, smallest first.
        training: of one distillation, and of one for each interior size of the ladder.
    """

    tokens: int
    sizes: tuple[SizeFlops, ...]
    training: Flops


def family_flops(family: Family, *, counted_tokens: int) -> FamilyFlops:
    """Count a family's FLOPs.

    Args:
        family: with weights, which torch's counter runs.
        counted_tokens: in the one window that it runs.
    """
    assert family.manifest is not None
    bank, made = family.bank, family.manifest.provenance
    of_token = flops_of_token(bank, full=isinstance(family.manifest.student, FullStudent))
    sizes = tuple(
        SizeFlops(
            size.id,
            size.layers,
            forward_flops(bank, size.variant),
            counted_flops(bank, size.variant, counted_tokens) / counted_tokens,
            of_token(size.layers),
        )
        for size in family.ladder
    )
    tokens = made.tokens if made is not None else 1
    once = tokens * of_token(family.positions)
    interior = [size for size in sizes if family.positions < size.layers < bank.blocks.teacher_layers]
    each = tokens * sum(size.distillation for size in interior)
    return FamilyFlops(tokens, sizes, Flops(float(once), float(each), each / once))


def forward_flops(bank: Bank, variant: Variant) -> int:
    """Of one token's forward pass, in closed form; a `delta` layer's update counts."""
    head_model = bank.model(variant.head_owner)
    parts = [
        *(bank.layer(ref) for ref in variant.stack(bank.blocks)),
        bank.architecture.norm_of(head_model),
        bank.architecture.head_of(head_model),
    ]
    return 2 * sum(parameter.numel() for part in parts for parameter in part.parameters())


@torch.inference_mode()
def counted_flops(bank: Bank, variant: Variant, tokens: int) -> int:
    """What torch counts in the forward pass of one window of so many tokens."""
    model = assemble(bank, variant)
    ids_BL = torch.ones(1, tokens, dtype=torch.long, device=model.device)
    # Fused attention is not counted on every device; as plain products it is.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(input_ids=ids_BL, use_cache=False)
    return counter.get_total_flops()


def paper_plans() -> list[Plan]:
    """The plans of the three teachers of Table 3, from shapes alone."""
    return [make_plan(load_recipe(name, [])) for name in _PAPER_RECIPES]
