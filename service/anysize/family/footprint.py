"""What a variant costs in parameters and bytes, counted from the bank (paper, Table 1)."""

from dataclasses import dataclass

from torch import Tensor, nn

from anysize.family.bank import Bank
from anysize.family.delta import DeltaLinear
from anysize.family.variant import Variant


@dataclass(frozen=True, slots=True)
class Footprint:
    """The size of one variant.

    Attributes:
        parameters: inference parameters: those of the exported checkpoint, embedding and LM head counted separately
            even where tied. A `delta` layer counts as the plain layer that it is equal to.
        distinct_parameters: parameters in distinct tensors of the bank, updates of `delta` layers included.
        bytes: of those distinct tensors.
    """

    parameters: int
    distinct_parameters: int
    bytes: int


def footprint_of(bank: Bank, variant: Variant) -> Footprint:
    """Count a variant's parameters and bytes."""
    architecture = bank.architecture
    head_model = bank.model(variant.head_owner)
    modules = [
        *architecture.embeddings_of(bank.model(variant.embedding_owner)).values(),
        *(bank.layer(ref) for ref in variant.stack(bank.blocks)),
        architecture.norm_of(head_model),
        architecture.head_of(head_model),
    ]
    distinct: dict[int, Tensor] = {id(tensor): tensor for module in modules for tensor in module.parameters()}
    return Footprint(
        parameters=sum(_inference_parameters(module) for module in modules),
        distinct_parameters=sum(tensor.numel() for tensor in distinct.values()),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in distinct.values()),
    )


def _inference_parameters(module: nn.Module) -> int:
    updates = sum(part.down.numel() + part.up.numel() for part in module.modules() if isinstance(part, DeltaLinear))
    return sum(parameter.numel() for parameter in module.parameters()) - updates
