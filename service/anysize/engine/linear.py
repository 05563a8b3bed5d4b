"""Linear maps of few tokens, which is what decoding is made of: reading the weight is all the work there is.

Compiled kernels do it at the memory's speed. Without them there are three ways, none of which wants another copy of
the weight: torch's `linear`; BLAS given the operands the other way round; oneDNN, which torch comes with and uses for
tensors of its own layout. Which one is fastest is another on each processor and for each number of tokens, by factors
of two and three, so they are tried. `anysize bench single --against transformers,uncompiled` shows what comes of it.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anysize.engine.kernels.kernels import Kernels
from anysize.family.int8 import Int8Linear

Way = Callable[[Tensor, Tensor], Tensor]
"""A function of tokens [T, I] and a weight [O, I] that returns their product [T, O]."""

_TRIED_TOKENS = (1, 2, 4, 8, 16, 64)
_TRIED_BYTES = 256 << 20
_TRIALS = 2


@dataclass(frozen=True, slots=True)
class Ways:
    """How linear maps are computed where there are no kernels.

    Attributes:
        by_tokens: for each number of `_TRIED_TOKENS`, the way from there on.
    """

    by_tokens: tuple[Way, ...]

    @classmethod
    def tried(cls, weights: Sequence[Tensor]) -> "Ways":
        """The fastest on this machine, by their times with the weights of a model. Takes a second for a large one.

        Args:
            weights: float32 on the CPU, of which as many are used as fit no cache.
        """
        used, size_bytes = list[Tensor](), 0
        for weight in weights:
            if size_bytes < _TRIED_BYTES:
                used.append(weight)
                size_bytes += weight.nbytes
        return cls(tuple(min(ways(), key=lambda way: _seconds(way, tokens, used)) for tokens in _TRIED_TOKENS))

    def of(self, tokens: int) -> Way:
        """The way for so many tokens."""
        return self.by_tokens[bisect_right(_TRIED_TOKENS, tokens) - 1]


def ways() -> tuple[Way, ...]:
    """Those that this build of torch has."""
    return (F.linear, _exchanged, *((_by_onednn,) if torch.backends.mkldnn.is_available() else ()))


class FastLinear(nn.Module):
    """The map of an `nn.Linear` in float32 on the CPU; its tensors are shared.

    Args:
        weight_OI: of the map.
        bias_O: or None.
        means: how it is computed.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, means: Kernels | Ways) -> None:
        super().__init__()
        self.weight = weight_OI
        self.bias = bias_O
        self._means = means

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map to the last dimension of x."""
        x_TI = x.reshape(-1, x.shape[-1])
        if isinstance(self._means, Kernels):
            out_TO = self._means.linear(x_TI.contiguous(), self.weight, bias_O=self.bias)
        else:
            out_TO = self._means.of(len(x_TI))(x_TI, self.weight)
            if self.bias is not None:
                out_TO += self.bias
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


def _by_onednn(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    return F.linear(x_TI.to_mkldnn(), weight_OI).to_dense()


def _seconds(way: Way, tokens: int, weights: Sequence[Tensor]) -> float:
    """The least that a way takes for so many tokens and all of some weights."""
    inputs = {weight.shape[1]: torch.ones(tokens, weight.shape[1]) for weight in weights}
    taken_s: list[float] = []
    for _ in range(_TRIALS):
        started_s = time.perf_counter()
        for weight in weights:
            way(inputs[weight.shape[1]], weight)
        taken_s.append(time.perf_counter() - started_s)
    return min(taken_s)
