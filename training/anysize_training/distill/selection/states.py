"""The teacher's residual stream on a text: what measurements of its layers read."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture


def residual_states(
    architecture: Architecture, model: PreTrainedModel, inputs_NL: Tensor, *, batch: int = 4
) -> Iterator[Tensor]:
    """The hidden states between the layers, some windows at a time.

    They are the layers' own inputs and outputs: the last is taken before the final norm, unlike the last of
    transformers' `hidden_states`.

    Args:
        architecture: where the model's parts are.
        model: run as it is; not changed.
        inputs_NL: token ids of N windows.
        batch: B, windows at a time.

    Yields:
        `[layers + 1, B, L, D]`: what the first layer is given, then what each layer gives.
    """
    layers = architecture.layers_of(model)
    states: list[Tensor] = []

    def first(_layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        states.append(arguments[0])

    def after(_layer: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    for batch_BL in tqdm(inputs_NL.split(batch), desc="measuring layers", unit="batch", leave=False):
        handles = [layers[0].register_forward_pre_hook(first)]
        handles += [layer.register_forward_hook(after) for layer in layers]
        states.clear()
        try:
            with torch.inference_mode():
                architecture.backbone_of(model)(input_ids=batch_BL, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        yield torch.stack(states)
