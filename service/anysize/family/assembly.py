"""Putting a variant together: module objects of its own over the bank's tensors.

A view is a second set of module objects around the same parameter objects. Everything that runs or is changed by
running (`layer_idx`, hooks, `training`, rotary buffers, config) belongs to the view, so any number of variants can run
in any number of threads; the tensors stay where they are.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from anysize.family.architectures import Architecture
from anysize.family.bank import Bank
from anysize.family.blocks import BlockMap
from anysize.family.variant import LayerRef, Variant

M = TypeVar("M", bound=nn.Module)
_CONTAINERS = tuple((name, type(held)) for name, held in nn.Module().__dict__.items() if isinstance(held, dict | set))


def assemble(bank: Bank, variant: Variant) -> PreTrainedModel:
    """Build the runnable model of a variant, sharing every tensor with the bank (paper, 2.3).

    Args:
        bank: the weights.
        variant: which positions are patched.

    Returns:
        A transformers causal LM of the bank's architecture, in eval mode as the bank is. It holds no weight bytes of
        its own; it must not be moved (`.to`) or written to.
    """
    stack = variant.stack(bank.blocks)
    config = _config_of(bank, variant, stack)
    head_model = bank.model(variant.head_owner)
    architecture = bank.architecture
    return restack(
        bank.teacher,
        architecture,
        config,
        embeddings=architecture.embeddings_of(bank.model(variant.embedding_owner)),
        layers=[bank.layer(ref) for ref in stack],
        norm=architecture.norm_of(head_model),
        head=architecture.head_of(head_model),
    )


def restack(
    source: PreTrainedModel,
    architecture: Architecture,
    config: PreTrainedConfig,
    *,
    embeddings: Mapping[str, nn.Module],
    layers: Sequence[nn.Module],
    norm: nn.Module,
    head: nn.Module,
) -> PreTrainedModel:
    """A view of `source` with other parts put in; layer k gets slot k of the KV cache.

    Args:
        source: the model whose class and remaining modules (rotary embedding, dropout) are used.
        architecture: where the parts of `source` are.
        config: the config of the result; `num_hidden_layers` equals `len(layers)`.
        embeddings: embedding modules by attribute name.
        layers: decoder layers in order; they are viewed, not moved.
        norm: the final norm.
        head: the LM head.
    """
    stack = nn.ModuleList()
    for slot, layer in enumerate(layers):
        seen = view(layer, config)
        getattr(seen, architecture.attention).layer_idx = slot
        stack.append(seen)

    old_backbone = architecture.backbone_of(source)
    backbone = _without_children(old_backbone, config)
    for name, child in old_backbone.named_children():
        if name == architecture.layers:
            backbone._modules[name] = stack
        else:
            replacement = norm if name == architecture.norm else embeddings.get(name, child)
            backbone._modules[name] = view(replacement, config)

    model = _without_children(source, config)
    model._modules[architecture.backbone] = backbone
    model._modules[architecture.head] = view(head, config)
    model.generation_config = copy.copy(source.generation_config)
    model.all_tied_weights_keys = source._tied_weights_keys if config.tie_word_embeddings else {}
    return model


def kept_layers(
    teacher: PreTrainedModel, architecture: Architecture, blocks: BlockMap, layers: Sequence[nn.Module] | None = None
) -> PreTrainedModel:
    """A view of the teacher's kept layers alone, under its own embedding, norm and head: an untrained student.

    Args:
        teacher: the model to view.
        architecture: where its parts are.
        blocks: the kept layers.
        layers: put in their place, where given; M of them.
    """
    everything = architecture.layers_of(teacher)
    return restack(
        teacher,
        architecture,
        student_config(teacher.config, blocks),
        embeddings=architecture.embeddings_of(teacher),
        layers=layers or [everything[layer] for layer in blocks.kept],
        norm=architecture.norm_of(teacher),
        head=architecture.head_of(teacher),
    )


def view(module: nn.Module, config: PreTrainedConfig | None = None) -> nn.Module:
    """A second module tree over the same parameters and buffers.

    Args:
        module: the tree to view; not changed.
        config: set on every module of the view that carries a config.
    """
    seen = _without_children(module, config)
    for name, child in module._modules.items():
        seen._modules[name] = None if child is None else view(child, config)
    return seen


def _without_children(module: M, config: PreTrainedConfig | None) -> M:
    # nn.Module keeps parameters, buffers and hooks in containers of its own; sharing one of those would let a view
    # write to the module it was made from. Most are empty, and making one is ten times as fast as copying one.
    state = module.__dict__.copy()
    for name, kind in _CONTAINERS:
        held = state[name]
        state[name] = held.copy() if held else kind()
    state["_modules"] = {}
    if config is not None and "config" in state:
        state["config"] = config
    seen = module.__class__.__new__(module.__class__)
    seen.__dict__.update(state)
    return seen


def _config_of(bank: Bank, variant: Variant, stack: Sequence[LayerRef]) -> PreTrainedConfig:
    config = copy.copy(bank.model(variant.head_owner).config)
    tied = config.tie_word_embeddings and variant.embedding_owner == variant.head_owner
    _set_depth(config, len(stack), [_layer_type(bank.model(ref.owner).config, ref.layer) for ref in stack])
    config.tie_word_embeddings = tied
    return config


def student_config(teacher: PreTrainedConfig, blocks: BlockMap) -> PreTrainedConfig:
    """The config of a student of M layers: the teacher's, with the kept layers' kinds of attention."""
    return config_with_layers(teacher, blocks.kept)


def config_with_layers(teacher: PreTrainedConfig, layers: Sequence[int]) -> PreTrainedConfig:
    """The teacher's config for a stack of some of its layers, in any order, with their kinds of attention."""
    config = copy.copy(teacher)
    _set_depth(config, len(layers), [_layer_type(teacher, layer) for layer in layers])
    return config


def _layer_type(config: PreTrainedConfig, layer: int) -> str | None:
    types = getattr(config, "layer_types", None)
    return None if types is None else types[layer]


def _set_depth(config: PreTrainedConfig, depth: int, layer_types: Sequence[str | None]) -> None:
    config.num_hidden_layers = depth
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = list(layer_types)
