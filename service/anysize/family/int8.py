"""Linear maps with weights in int8, a quarter of float32's bytes.

Weights alone are rounded, each row by a scale of its own; activations stay as they are. Models like these write a few
activations a thousand times as large as the rest, which int8 activations could not hold.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from anysize.family.bank import Bank

Quantization = Literal["int8"]

_LARGEST = 127


class Int8Linear(nn.Module):
    """x W^T + b, where row o of W is `scale_O[o] * weight_OI[o]`.

    Args:
        weight_OI: in a floating dtype; rounded to the nearest step.
        bias_O: or None; shared.
    """

    def __init__(self, weight_OI: Tensor, bias_O: nn.Parameter | None) -> None:
        super().__init__()
        scale_O = weight_OI.detach().abs().amax(dim=1).float().clamp(min=torch.finfo(torch.float32).tiny) / _LARGEST
        rounded_OI = (weight_OI.detach() / scale_O[:, None]).round_().to(torch.int8)
        self.weight = nn.Parameter(rounded_OI, requires_grad=False)
        self.bias = bias_O
        self.register_buffer("scale", scale_O)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map to the last dimension of x."""
        return F.linear(x, self.weight.to(x.dtype) * self.get_buffer("scale")[:, None].to(x.dtype), self.bias)


def quantize(bank: Bank) -> None:
    """Round the weights of every linear map of a bank; embeddings, norms and the updates of `delta` students stay.

    A weight that two maps share is rounded once and is still shared. An LM head that is tied to the embedding gets a
    weight of its own.

    Args:
        bank: changed; of nobody else yet.
    """
    done: dict[int, Int8Linear] = {}
    for model in (bank.teacher, bank.student):
        for name, module in [*model.named_modules()]:
            if not isinstance(module, nn.Linear | Conv1D):
                continue
            weight = module.weight
            if id(weight) not in done:
                weight_OI = weight.T.contiguous() if isinstance(module, Conv1D) else weight
                done[id(weight)] = Int8Linear(weight_OI, module.bias)
            model.set_submodule(name, done[id(weight)])
    for module in done.values():
        module.eval()
