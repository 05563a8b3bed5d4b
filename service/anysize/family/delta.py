"""`delta` students: low-rank updates over the teacher layers that the student was initialised from.

Each linear map W of student layer i becomes W x + up (down x), where W is the very tensor of teacher layer l_i; norms
are the student's own. Embedding and LM head are the teacher's. In a mixed batch both kinds of rows so share W x.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from anysize.family.architectures import Architecture
from anysize.family.assembly import kept_layers, view
from anysize.family.blocks import BlockMap


class DeltaLinear(nn.Module):
    """A shared linear map plus a low-rank update: base(x) + up (down x).

    Attributes:
        base: `nn.Linear` or transformers' `Conv1D`, with in features I and out features O; its tensors are shared.
        down: first factor, rank by I.
        up: second factor, O by rank; zero at the start, so that a new student equals its teacher layers.
    """

    def __init__(self, base: nn.Linear | Conv1D, rank: int) -> None:
        super().__init__()
        weight = base.weight
        out_features, in_features = reversed(weight.shape) if isinstance(base, Conv1D) else weight.shape
        self.base: nn.Linear | Conv1D = base
        self.down = nn.Parameter(torch.empty(rank, in_features, dtype=weight.dtype, device=weight.device))
        self.up = nn.Parameter(torch.zeros(out_features, rank, dtype=weight.dtype, device=weight.device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map to the last dimension of x."""
        return self.base(x) + F.linear(F.linear(x, self.down), self.up)

    def merged(self) -> nn.Module:
        """A plain linear map with the update added to its weight: the same function, with tensors of its own."""
        update_OI = self.up @ self.down
        update = update_OI.T if isinstance(self.base, Conv1D) else update_OI
        plain = view(self.base)
        plain._parameters["weight"] = nn.Parameter(self.base.weight + update, requires_grad=False)
        return plain


def delta_student(teacher: PreTrainedModel, architecture: Architecture, blocks: BlockMap, rank: int) -> PreTrainedModel:
    """A new `delta` student of the teacher: the kept layers with updates that are still zero (paper, 2.1).

    Args:
        teacher: the model whose tensors are shared.
        architecture: where its parts are.
        blocks: the kept layers.
        rank: R of every update.
    """
    everything = architecture.layers_of(teacher)
    updated = [_with_updates(everything[layer], rank) for layer in blocks.kept]
    student = kept_layers(teacher, architecture, blocks, updated)
    _own_parameters(architecture.norm_of(student))
    return student


def own_tensors(student: PreTrainedModel, teacher: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The parameters of a `delta` student that are not the teacher's, by name; these are what is trained and stored."""
    shared = {id(parameter) for parameter in teacher.parameters()}
    return {name: parameter for name, parameter in student.named_parameters() if id(parameter) not in shared}


@torch.no_grad()
def load_own_tensors(student: PreTrainedModel, teacher: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
    """Copy stored tensors into a `delta` student. Names and shapes were checked by the reader of the artifact."""
    own = own_tensors(student, teacher)
    assert own.keys() == tensors.keys()
    for name, parameter in own.items():
        parameter.copy_(tensors[name])


def merge_updates(module: nn.Module) -> nn.Module:
    """A view of a module tree in which every update is merged into a plain linear map."""
    if isinstance(module, DeltaLinear):
        return module.merged()
    merged = view(module)
    for name, child in module.named_children():
        merged._modules[name] = merge_updates(child)
    return merged


def _with_updates(layer: nn.Module, rank: int) -> nn.Module:
    updated = view(layer)
    for name, module in [*updated.named_modules()]:
        if isinstance(module, nn.Linear | Conv1D):
            updated.set_submodule(name, DeltaLinear(module, rank))
        else:
            _own_parameters(module)
    return updated


def _own_parameters(module: nn.Module) -> nn.Module:
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.detach().clone())
    return module
