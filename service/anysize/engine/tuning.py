"""Views of layers made faster on a CPU: parts are replaced by ones that compute the same from the same tensors.

What is replaced is known by its class. Whatever is not known stays transformers' own.
"""

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from anysize.engine.kernels.kernels import Kernels
from anysize.engine.linear import FastInt8Linear, FastLinear, Ways
from anysize.family.architectures import is_silu_gated
from anysize.family.int8 import Int8Linear

_NORMS = (LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm)


def tuned(seen: nn.Module, means: Kernels | Ways) -> nn.Module:
    """Make a view faster, and everything in it.

    Args:
        seen: a view that belongs to the caller; its children are replaced.
        means: how linear maps are computed; compiled kernels do more than these.

    Returns:
        What takes the place of `seen`, which may be itself.
    """
    if isinstance(seen, nn.Linear):
        return FastLinear(seen.weight, seen.bias, means)
    kernels = means if isinstance(means, Kernels) else None
    if kernels is not None and isinstance(seen, Int8Linear):
        return FastInt8Linear(seen, kernels)
    for name, child in seen.named_children():
        seen._modules[name] = tuned(child, means)
    if kernels is not None and isinstance(seen, _NORMS):
        return _Norm(seen.weight, seen.variance_epsilon, kernels)
    if kernels is not None and is_silu_gated(seen):
        gate, up, down = (seen.get_submodule(f"{name}_proj") for name in ("gate", "up", "down"))
        return _Gated(gate, up, down, kernels)
    return seen


class _Norm(nn.Module):
    """RMS norm."""

    def __init__(self, weight_D: Tensor, epsilon: float, kernels: Kernels) -> None:
        super().__init__()
        self.weight = weight_D
        self._epsilon = epsilon
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        return self._kernels.rms_norm(x.contiguous(), self.weight, self._epsilon)


class _Gated(nn.Module):
    """down(silu(gate(x)) up(x))."""

    def __init__(self, gate: nn.Module, up: nn.Module, down: nn.Module, kernels: Kernels) -> None:
        super().__init__()
        self.gate = gate
        self.up = up
        self.down = down
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self._kernels.silu_times_(self.gate(x), self.up(x)))
