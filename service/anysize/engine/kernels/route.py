"""A step's plan as the compiled kernels take it: which layer, which of the packed tokens, at which place.

Tokens keep the order in which they are packed at first. Where the plan moves rows, the visits name them in another one.
"""

import ctypes
from collections.abc import Mapping
from ctypes import c_int64, c_void_p
from itertools import accumulate

import torch

from anysize.engine.kernels.layers import Layer
from anysize.engine.plan import Plan
from anysize.family.variant import LayerRef


class Visit(ctypes.Structure):
    """`Visit` of sweep.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("layer", "tokens", "places")),
        *((name, c_int64) for name in ("count", "students")),
    )


class Route:
    """Where a plan leads.

    Args:
        plan: of the step.
        layers: those that the plan names.

    Attributes:
        stops: for each number of positions from 0 to M, how many visits they have together.
        first: for each row by its number, the first of its tokens among the packed ones.
        last: likewise the last.
    """

    def __init__(self, plan: Plan, layers: Mapping[LayerRef, Layer]) -> None:
        starts = accumulate((plan.tokens[row] for row in plan.rows), initial=0)
        self.first = dict(zip(plan.rows, starts, strict=False))
        self.last = [self.first[row] + tokens - 1 for row, tokens in enumerate(plan.tokens)]
        visits = [visit for position in plan.positions for visit in position.visits]
        self.stops = [*accumulate((len(position.visits) for position in plan.positions), initial=0)]
        of_tokens = [
            (self.first[row] + token, place)
            for visit in visits
            for row, place in zip(visit.rows, visit.places, strict=True)
            for token in range(plan.tokens[row])
        ]
        self._lists_2T = torch.tensor(of_tokens, dtype=torch.int64).view(-1, 2).T.contiguous()
        self._layers = layers  # the visits hold their addresses
        self._visits = (Visit * len(visits))()
        start = 0
        for number, visit in enumerate(visits):
            here_2N = self._lists_2T[:, start:]
            count = visit.tokens.stop - visit.tokens.start
            self._visits[number] = Visit(
                ctypes.addressof(layers[visit.layer]),
                here_2N[0].data_ptr(),
                here_2N[1].data_ptr(),
                count,
                visit.students,
            )
            start += count

    def address(self, visit: int) -> int:
        """Where a visit is, by its number; the later ones follow."""
        return ctypes.addressof(self._visits) + visit * ctypes.sizeof(Visit)
