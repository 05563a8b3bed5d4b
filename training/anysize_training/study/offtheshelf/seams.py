"""Linear maps between the hidden states of two models that read the same tokens (ridge regression)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize.family.blocks import BlockMap
from anysize_training.distill.selection.states import residual_states

_RIDGE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One of the two models, and where its parts are."""

    architecture: Architecture
    model: PreTrainedModel


@dataclass(frozen=True, slots=True, eq=False)
class Seam:
    """The maps behind one position.

    Attributes:
        to_teacher: from the student's width to the teacher's, where the next position is patched and this is not.
        to_student: the other way round.
    """

    to_teacher: nn.Linear
    to_student: nn.Linear


def fit_seams(teacher: Side, student: Side, blocks: BlockMap, inputs_NL: Tensor) -> list[Seam]:
    """Fit a seam behind every position but the last, by least squares over tokens, in float64.

    Behind position i stand the outputs of student layer i and of the last layer of its block. The penalty is a
    millionth of the mean square of a hidden dimension; a map has a bias.

    Args:
        teacher: N layers.
        student: M layers.
        blocks: which of the teacher's each of the student's stands for.
        inputs_NL: token ids of N windows.
    """
    ends = [block[-1] for block in blocks.blocks[:-1]]
    sums = [_Sums() for _ in ends]
    pairs = (residual_states(side.architecture, side.model, inputs_NL) for side in (student, teacher))
    for ours_SBLD, theirs_SBLD in zip(*pairs, strict=True):
        for position, end in enumerate(ends):
            sums[position].add(ours_SBLD[position + 1], theirs_SBLD[end + 1])
    return [one.seam(next(teacher.model.parameters())) for one in sums]


class _Sums:
    """Products of the states of both models, a column of ones behind each, summed over tokens."""

    def __init__(self) -> None:
        self._ours = self._both = self._theirs = torch.zeros((), dtype=torch.float64)

    def add(self, ours_BLD: Tensor, theirs_BLD: Tensor) -> None:
        ours, theirs = (_with_ones(states_BLD) for states_BLD in (ours_BLD, theirs_BLD))
        self._ours = self._ours + ours.T @ ours
        self._both = self._both + ours.T @ theirs
        self._theirs = self._theirs + theirs.T @ theirs

    def seam(self, like: Tensor) -> Seam:
        return Seam(_solved(self._ours, self._both, like), _solved(self._theirs, self._both.T, like))


def _with_ones(states_BLD: Tensor) -> Tensor:
    return F.pad(states_BLD.flatten(0, 1).double().cpu(), (0, 1), value=1.0)


def _solved(inputs_II: Tensor, products_IO: Tensor, like: Tensor) -> nn.Linear:
    width = len(inputs_II) - 1
    penalty = _RIDGE * inputs_II.diagonal()[:width].mean()
    penalties_I = torch.cat([penalty.expand(width), penalty.new_zeros(1)])
    solution_IO = torch.linalg.solve(inputs_II + penalties_I.diag(), products_IO[:, :-1])
    made = nn.Linear(width, solution_IO.shape[1], device=like.device, dtype=like.dtype).requires_grad_(False)
    made.weight.copy_(solution_IO[:-1].T)
    made.bias.copy_(solution_IO[-1])
    return made
