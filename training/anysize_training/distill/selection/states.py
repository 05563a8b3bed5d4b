"""The teacher's residual stream on a text: what measurements of its layers read."""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize_training.trail import Trail


def residual_states(architecture: Architecture, model: PreTrainedModel, inputs_NL: Tensor) -> Iterator[Tensor]:
    """The hidden states between the layers, some windows at a time.

    They are the layers' own inputs and outputs: the last is taken before the final norm, unlike the last of
    transformers' `hidden_states`.

    Args:
        architecture: where the model's parts are.
        model: run as it is; not changed.
        inputs_NL: token ids of N windows.

    Yields:
        `[layers + 1, B, L, D]`: what the first layer is given, then what each layer gives.
    """
    for states in Trail(architecture, inputs_NL, kept_bytes=0).run(model, "measuring layers"):
        yield torch.stack(states)
