"""A pruned or merged teacher as data: a stack of layers, each a sum of teacher layers. And the model it describes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from anysize.family.architectures import Architecture
from anysize.family.assembly import config_with_layers, restack, view
from anysize.family.blocks import BlockMap

Terms = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, order=True)
class StackLayer:
    """One layer, whose tensors are sums of teacher tensors of the same name.

    Attributes:
        base: the teacher layer whose kind of attention it has.
        maps: what tensors of linear maps are: pairs of a teacher layer and the factor it enters with.
        rest: what all other tensors are, which are those of norms.
    """

    base: int
    maps: Terms
    rest: Terms

    @classmethod
    def of(cls, layer: int) -> "StackLayer":
        """A teacher layer as it is."""
        return cls(layer, ((layer, 1),), ((layer, 1),))

    @property
    def is_plain(self) -> bool:
        """Whether it is a teacher layer as it is."""
        return self == StackLayer.of(self.base)


Stack = tuple[StackLayer, ...]


def plain_stack(layers: Iterable[int]) -> Stack:
    """Some teacher layers as they are."""
    return tuple(StackLayer.of(layer) for layer in layers)


def sum_of(terms: Iterable[tuple[Terms, int]]) -> Terms:
    """A sum of sums, each with a factor; teacher layers that cancel out are left out."""
    total: dict[int, int] = {}
    for inner, factor in terms:
        for layer, count in inner:
            total[layer] = total.get(layer, 0) + factor * count
    return tuple((layer, count) for layer, count in sorted(total.items()) if count)


def merged(first: StackLayer, others: Sequence[StackLayer]) -> StackLayer:
    """Layers merged into the first by the paper's Equation 4: theta_first + sum_k (theta_k - theta_first).

    Args:
        first: gives its kind of attention too.
        others: any number.
    """
    return StackLayer(
        first.base,
        sum_of([(first.maps, 1 - len(others)), *((layer.maps, 1) for layer in others)]),
        sum_of([(first.rest, 1 - len(others)), *((layer.rest, 1) for layer in others)]),
    )


def merged_blocks(blocks: BlockMap) -> Stack:
    """Each block of the teacher merged into its first layer: LaCo as the start of a student."""
    return tuple(merged(StackLayer.of(block[0]), plain_stack(block[1:])) for block in blocks.blocks)


def build(teacher: PreTrainedModel, architecture: Architecture, stack: Sequence[StackLayer]) -> PreTrainedModel:
    """The runnable model of a stack, under the teacher's embedding, final norm and LM head.

    Every tensor that is one of the teacher's is shared with it; only true sums take memory.

    Args:
        teacher: not changed.
        architecture: where its parts are.
        stack: at least one layer.
    """
    layers = architecture.layers_of(teacher)
    return restack(
        teacher,
        architecture,
        config_with_layers(teacher.config, [layer.base for layer in stack]),
        embeddings=architecture.embeddings_of(teacher),
        layers=[_module(layers, layer) for layer in stack],
        norm=architecture.norm_of(teacher),
        head=architecture.head_of(teacher),
    )


def parameters_of(model: PreTrainedModel, architecture: Architecture) -> int:
    """Inference parameters: embedding and LM head counted separately even where tied (paper, Table 1)."""
    parts = [
        *architecture.embeddings_of(model).values(),
        *architecture.layers_of(model),
        architecture.norm_of(model),
        architecture.head_of(model),
    ]
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


@torch.no_grad()
def _module(layers: Sequence[nn.Module], wanted: StackLayer) -> nn.Module:
    if wanted.is_plain:
        return layers[wanted.base]
    made = view(layers[wanted.base])
    for path, module in made.named_modules():
        terms = wanted.maps if isinstance(module, nn.Linear | Conv1D) else wanted.rest
        parts = {layer: layers[layer].get_submodule(path)._parameters for layer, _ in terms}
        for name in module._parameters:
            module._parameters[name] = _sum(name, terms, parts)
    return made


def _sum(name: str, terms: Terms, parts: Mapping[int, Mapping[str, nn.Parameter | None]]) -> nn.Parameter | None:
    tensors = [(parts[layer][name], factor) for layer, factor in terms]
    first, factor = tensors[0]
    if first is None or (len(tensors) == 1 and factor == 1):
        return first
    total = torch.zeros_like(first)
    for tensor, factor in tensors:
        assert tensor is not None, "layers of one teacher have the same tensors"
        total.add_(tensor, alpha=factor)
    return nn.Parameter(total, requires_grad=False)
