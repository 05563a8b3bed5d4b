"""Measurements of layers straight from their definitions, on plain transformers."""

import copy
from itertools import combinations

import torch
from fakes import tiny_config, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from anysize.family.architectures import architecture_of
from anysize.family.assembly import kept_layers
from anysize.family.blocks import BlockMap


def states(model: PreTrainedModel, ids: Tensor) -> list[Tensor]:
    """The residual stream: transformers' hidden states of a copy whose final norm does nothing."""
    copied = copy.deepcopy(model)
    architecture = architecture_of(model.config, "tiny")
    setattr(architecture.backbone_of(copied), architecture.norm, nn.Identity())
    with torch.no_grad():
        return list(copied(ids, output_hidden_states=True).hidden_states)


def block_maps(layers: int, kept: int, longest: int) -> list[BlockMap]:
    """Every block map of these numbers."""
    every = (BlockMap((0, *rest), layers) for rest in combinations(range(1, layers), kept - 1))
    return [blocks for blocks in every if blocks.longest <= longest]


def pruned_kl(model: PreTrainedModel, kept: tuple[int, ...], ids: Tensor) -> float:
    """KL from the definition, by running the pruned teacher as a model."""
    architecture = architecture_of(model.config, "tiny")
    return kl_of(model, kept_layers(model, architecture, BlockMap(kept, model.config.num_hidden_layers)), ids)


def kl_of(model: PreTrainedModel, other: PreTrainedModel, ids: Tensor) -> float:
    """KL(model || other) of a token from the definition."""
    with torch.no_grad():
        ours = other(ids).logits.double().log_softmax(-1)
        theirs = model(ids).logits.double().log_softmax(-1)
    return (theirs.exp() * (theirs - ours)).sum(-1).mean().item()


def with_idle_layers(*idle: int, layers: int = 6) -> PreTrainedModel:
    """A llama of which some layers hand on what they are given."""
    model = tiny_model(tiny_config("llama", layers), 0)
    with torch.no_grad():
        for layer in idle:
            model.model.layers[layer].self_attn.o_proj.weight.zero_()
            model.model.layers[layer].mlp.down_proj.weight.zero_()
    return model
