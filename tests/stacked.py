"""Pruned and merged models built by hand: a fresh model of transformers, and tensors copied into it by name."""

import copy
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

Tensors = dict[str, Tensor]

_LAYER = re.compile(r"^(.*\.(?:layers|h))\.(\d+)\.(.*)$")


def layer_tensors(model: PreTrainedModel, layer: int) -> Tensors:
    """One layer's tensors by their names within it, copied."""
    found = {match[3]: tensor.clone() for match, tensor in _matched(model) if int(match[2]) == layer}
    assert found
    return found


def stacked(model: PreTrainedModel, layers: Sequence[Mapping[str, Tensor]], kinds: Sequence[int]) -> PreTrainedModel:
    """A model with these layers, and all else the model's; `kinds` are layers whose kind of attention they have."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [model.config.layer_types[kind] for kind in kinds]
    made = AutoModelForCausalLM.from_config(config)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not _LAYER.match(name)}
    (prefix,) = {match[1] for match, _ in _matched(model)}
    for number, layer in enumerate(layers):
        tensors |= {f"{prefix}.{number}.{name}": tensor for name, tensor in layer.items()}
    made.load_state_dict(tensors)
    return made.eval()


def pruned_by_hand(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """A model of some layers only."""
    return stacked(model, [layer_tensors(model, layer) for layer in kept], kept)


def merged(layers: Sequence[Tensors]) -> Tensors:
    """Layers merged into the first as Equation 4 of the paper is written."""
    return {name: theta + sum(other[name] - theta for other in layers[1:]) for name, theta in layers[0].items()}


def is_linear(name: str) -> bool:
    """Whether a layer's tensor belongs to a linear map; norms are named so in every architecture."""
    return not re.search(r"norm|ln_\d", name)


def some_tokens(rows: int = 2, length: int = 9, seed: int = 0) -> Tensor:
    """Random token ids, the same for a seed."""
    return torch.randint(3, 259, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits_of(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """What a model says about token ids."""
    with torch.no_grad():
        return model(ids).logits


def _matched(model: PreTrainedModel) -> list[tuple[re.Match[str], Tensor]]:
    return [(match, tensor) for name, tensor in model.state_dict().items() if (match := _LAYER.match(name))]
