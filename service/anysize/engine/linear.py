"""Linear maps of few tokens, which is what decoding is made of: reading the weight is all the work there is.

torch's `linear` of a row-major weight is far from the memory's speed there, and on some processors from their own with
more tokens too. Three ways are nearer, and none wants another copy of the weight: compiled kernels; BLAS given the
operands the other way round, for few tokens; oneDNN, which torch comes with and uses for tensors of its own layout, for
more. What each is worth on a machine says `anysize bench single --against transformers,uncompiled`: transformers uses
`linear`, the engine without kernels the other two.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anysize.engine.kernels.kernels import Kernels
from anysize.family.int8 import Int8Linear

_FEW_FOR_EXCHANGE = 4


class FastLinear(nn.Module):
    """The map of an `nn.Linear` in float32 on the CPU; its tensors are shared.

    Args:
        weight_OI: of the map.
        bias_O: or None.
        kernels: compiled ones, if there are any.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, kernels: Kernels | None) -> None:
        super().__init__()
        self.weight = weight_OI
        self.bias = bias_O
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map to the last dimension of x."""
        x_TI = x.reshape(-1, x.shape[-1])
        if self._kernels:
            out_TO = self._kernels.linear(x_TI.contiguous(), self.weight, bias_O=self.bias)
        elif len(x_TI) <= _FEW_FOR_EXCHANGE:
            out_TO = _exchanged(x_TI, self.weight)
            if self.bias is not None:
                out_TO += self.bias
        elif torch.backends.mkldnn.is_available():
            out_TO = F.linear(x_TI.to_mkldnn(), self.weight, self.bias).to_dense()
        else:
            out_TO = F.linear(x_TI, self.weight, self.bias)
        return out_TO.view(*x.shape[:-1], -1)


class FastInt8Linear(nn.Module):
    """The map of an `Int8Linear` by a compiled kernel, which never makes floats of the whole weight.

    Args:
        linear: its tensors are shared.
        kernels: compiled ones.
    """

    def __init__(self, linear: Int8Linear, kernels: Kernels) -> None:
        super().__init__()
        self.weight = linear.weight
        self.scale = linear.get_buffer("scale")
        self.bias = linear.bias
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map to the last dimension of x."""
        x_TI = x.reshape(-1, x.shape[-1]).contiguous()
        out_TO = self._kernels.linear(x_TI, self.weight, scale_O=self.scale, bias_O=self.bias)
        return out_TO.view(*x.shape[:-1], -1)


def _exchanged(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    """The product x W^T as (W x^T)^T, for which BLAS has faster ways."""
    tokens = len(x_TI)
    if tokens in (1, 3):  # slower than 2 and 4
        x_TI = torch.cat((x_TI, x_TI[:1]))
    return torch.mm(weight_OI, x_TI.T).T[:tokens].contiguous()
