"""The layers of a bank run by the compiled kernels: a step through all of them is one call."""

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_int64, c_void_p
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from anysize.engine.exchange import exchange, is_due
from anysize.engine.kernels.kernels import Kernels
from anysize.engine.kernels.layers import can_be_compiled, compiled
from anysize.engine.kernels.route import Route
from anysize.engine.step import Step
from anysize.family.variant import LayerRef

# Twice as many as a step has by default; scratch memory grows with them.
MOST_TOKENS = 512
_REMEMBERED_ROUTES = 64


class _Sequence(ctypes.Structure):
    """`Sequence` of sweep.h."""

    _fields_ = (("pages", c_void_p), ("pages_of_a_place", c_int64))


class _Store(ctypes.Structure):
    """`Store` of attention.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("keys", "values")),
        *((name, c_int64) for name in ("page_tokens", "heads", "group", "width")),
    )


class _Step(ctypes.Structure):
    """`Step` of sweep.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("hidden", "cosine", "sine", "tokens", "sequences")),
        ("kv", _Store),
        ("count", c_int64),
        ("width", c_int64),
    )


class CompiledLayers:
    """Layers that the kernels take up to `MOST_TOKENS` tokens through at once. See `Layers`, which takes any number.

    Args:
        views: of every layer that a plan may name, all of which the kernels know. Their tensors are used as they lie.
        kernels: the compiled ones.
    """

    def __init__(self, views: Mapping[LayerRef, nn.Module], kernels: Kernels) -> None:
        self._views = views  # so that the tensors live as long as their addresses
        self._group = int(_attention(views).num_key_value_groups)
        self._kernels = kernels
        layers = {ref: compiled(layer) for ref, layer in views.items()}
        self._route = lru_cache(maxsize=_REMEMBERED_ROUTES)(lambda plan: Route(plan, layers))

    @classmethod
    def of(cls, views: Mapping[LayerRef, nn.Module], kernels: Kernels) -> "CompiledLayers | None":
        """The same layers for the kernels; None where they do not know them all."""
        return cls(views, kernels) if all(can_be_compiled(layer) for layer in views.values()) else None

    def run(self, step: Step) -> tuple[Tensor, Sequence[int]]:
        """Take a step through, and store its keys and values.

        Returns:
            Hidden states [T, D] behind the last layer, and for each row where its last token is among them.
        """
        plan, route = step.plan, self._route(step.plan)
        passage = _Passage(step, route, self._group, self._kernels)
        for number, position in enumerate(plan.positions if step.states else ()):
            for row in position.rows:
                if step.states and is_due(number, step.rows[row], step.states):
                    passage.through(number)
                    here_ND = step.hidden_1TD[0, route.first[row] : route.last[row] + 1]
                    exchange(number, step.rows[row], here_ND, step.states)
        passage.through(len(plan.positions))
        return step.hidden_1TD[0], route.last


class _Passage:
    """How far a step has come. It goes on from where it stopped."""

    def __init__(self, step: Step, route: Route, group: int, kernels: Kernels) -> None:
        assert step.rotation is not None
        packed = [step.rows[row] for row in step.plan.rows]
        tokens = [(number, row.start + token) for number, row in enumerate(packed) for token in range(row.tokens)]
        self._tokens_T2 = torch.tensor(tokens, dtype=torch.int64)
        self._sequences = (_Sequence * len(packed))(
            *(_Sequence(row.sequence.address(0), row.sequence.pages_of_a_place) for row in packed)
        )
        cosine_TW, sine_TW = self._rotation = [part[0].contiguous() for part in step.rotation]
        pool = step.pool
        _, heads, width = pool.keys_SGD.shape
        self._step = _Step(
            hidden=step.hidden_1TD.data_ptr(),
            cosine=cosine_TW.data_ptr(),
            sine=sine_TW.data_ptr(),
            tokens=self._tokens_T2.data_ptr(),
            sequences=ctypes.addressof(self._sequences),
            kv=_Store(pool.keys_SGD.data_ptr(), pool.values_SGD.data_ptr(), pool.page_tokens, heads, group, width),
            count=step.hidden_1TD.shape[1],
            width=step.hidden_1TD.shape[2],
        )
        self._route = route
        self._kernels = kernels
        self._done = 0

    def through(self, positions: int) -> None:
        """Run what is left of so many positions, counted from the first."""
        stop = self._route.stops[positions]
        if self._done < stop:
            self._kernels.sweep(ctypes.addressof(self._step), self._route.address(self._done), stop - self._done)
            self._done = stop


def _attention(views: Mapping[LayerRef, nn.Module]) -> Any:
    """Of any layer: heads are alike in all of them."""
    return next(iter(views.values())).get_submodule("self_attn")
