"""Layers in which a `delta` student's tokens and the teacher's share every base matrix product.

Student layer i is teacher layer l_i plus low-rank updates and norms of its own. A mixed layer is a view of that teacher
layer, still transformers' own module, in which each linear map adds the update for the tokens of the student alone, and
each norm treats the two kinds apart. The student's tokens come first.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anysize.family.assembly import view
from anysize.family.bank import Bank
from anysize.family.delta import DeltaLinear


@dataclass(slots=True)
class Border:
    """Where the student's tokens end in what is being run.

    Attributes:
        students: how many of the packed tokens, from the first, are the student's.
    """

    students: int = 0


class MixedLinear(nn.Module):
    """A linear map over packed tokens [1, T, ...]: base(x), plus up (down x) for the first `border.students` tokens.

    Args:
        delta: the student's; its tensors are shared.
        border: read at each call.
    """

    def __init__(self, delta: DeltaLinear, border: Border) -> None:
        super().__init__()
        self.base = view(delta.base)
        self.down = _linear(delta.down)
        self.up = _linear(delta.up)
        self._border = border

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map to the last dimension of x."""
        out = self.base(x)
        students = self._border.students
        if students:
            out[0, :students] += self.up(self.down(x[0, :students]))
        return out


class MixedNorm(nn.Module):
    """A norm over packed tokens [1, T, ...]: the student's for the first `border.students`, the teacher's for the rest.

    Args:
        student: the student's norm; its tensors are shared.
        teacher: the teacher's; likewise.
        border: read at each call.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, border: Border) -> None:
        super().__init__()
        self.student = view(student)
        self.teacher = view(teacher)
        self._border = border

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of x."""
        students = self._border.students
        if not students:
            return self.teacher(x)
        if students == x.shape[1]:
            return self.student(x)
        return torch.cat((self.student(x[:, :students]), self.teacher(x[:, students:])), dim=1)


def is_delta(bank: Bank) -> bool:
    """Whether the student is made of updates on the teacher's layers."""
    return any(isinstance(module, DeltaLinear) for module in bank.student.modules())


def mixed(student: nn.Module, teacher: nn.Module, border: Border) -> nn.Module:
    """A view of a teacher layer that runs a `delta` student's tokens too.

    Args:
        student: the student's layer, or a part of one.
        teacher: the teacher's layer that it stands on, or the same part of it.
        border: between the two kinds of tokens.
    """
    if isinstance(student, DeltaLinear):
        return MixedLinear(student, border)
    if any(parameter is not teacher._parameters[name] for name, parameter in student._parameters.items()):
        return MixedNorm(student, teacher, border)
    seen = view(teacher)
    for name, child in student.named_children():
        seen._modules[name] = mixed(child, teacher.get_submodule(name), border)
    return seen


def _linear(weight_OI: nn.Parameter) -> nn.Linear:
    linear = nn.Linear(*reversed(weight_OI.shape), bias=False, device="meta")
    linear.weight = weight_OI
    return linear
