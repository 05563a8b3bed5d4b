"""Gated MLPs that keep less for the backward pass.

Autograd keeps the gate, its activation, the other factor and their product, each three times as wide as the hidden
states or so. The activation is cheap and is computed again instead.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anysize.family.architectures import is_silu_gated


class LeanMLP(nn.Module):
    """down(silu(gate(x)) up(x)), with the parts and the names of the MLP that it stands for.

    Args:
        mlp: one of transformers' gated MLPs.
    """

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        for name, part in mlp.named_children():
            if name.endswith("_proj"):
                self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to the last dimension of x."""
        product = _SiluTimes.apply(self.get_submodule("gate_proj")(x), self.get_submodule("up_proj")(x))
        return self.get_submodule("down_proj")(product)


def use_lean_mlps(model: nn.Module) -> None:
    """Put a `LeanMLP` in the place of every gated MLP of a model that is trained; others stay as they are."""
    for name, module in [*model.named_modules()]:
        if is_silu_gated(module):
            model.set_submodule(name, LeanMLP(module))


class _SiluTimes(torch.autograd.Function):
    """silu(gate) up; its derivative by the gate is up s (1 + gate (1 - s)), where s is the sigmoid of the gate."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *slopes: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        (slope,) = slopes
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        by_gate = sigmoid.addcmul_(silu, 1 - sigmoid).mul_(up).mul_(slope)
        return by_gate, silu.mul_(slope)
