"""Views of the bank's layers, and a step's way through them: transformers' own modules, one call each."""

import copy
from collections import abc
from itertools import accumulate

import torch
from torch import Tensor, nn

from anysize.engine.attention import NAME
from anysize.engine.exchange import exchange
from anysize.engine.kernels.kernels import Kernels
from anysize.engine.mixed import Border, mixed
from anysize.engine.packing import packed_kvs
from anysize.engine.step import Step
from anysize.family.assembly import view
from anysize.family.bank import Bank
from anysize.family.variant import LayerRef, Owner


def layer_views(bank: Bank, border: Border, *, shares_base: bool) -> dict[LayerRef, nn.Module]:
    """A view of every layer that a plan may name.

    Args:
        bank: the weights.
        border: read by the layers that a `delta` student and its teacher share.
        shares_base: whether there are such layers.
    """
    config = copy.copy(bank.teacher.config)
    config._attn_implementation = NAME
    layers = {
        ref: bank.layer(ref) for ref in (LayerRef(Owner.TEACHER, layer) for layer in range(bank.blocks.teacher_layers))
    }
    for position, kept in enumerate(bank.blocks.kept):
        ref, base = LayerRef(Owner.STUDENT, position), LayerRef(Owner.TEACHER, kept)
        if shares_base:
            layers[base] = mixed(bank.layer(ref), layers[base], border)
        else:
            layers[ref] = bank.layer(ref)
    return {ref: view(layer, config) for ref, layer in layers.items()}


class Layers:
    """Layers that run one after another, any number of tokens at once.

    Args:
        views: of every layer that a plan may name.
        border: as they read it.
        kernels: compiled ones for attention, where they are to be used.
    """

    def __init__(self, views: abc.Mapping[LayerRef, nn.Module], border: Border, kernels: Kernels | None) -> None:
        self._views = views
        self._border = border
        self._kernels = kernels

    def run(self, step: Step) -> tuple[Tensor, abc.Sequence[int]]:
        """Take a step through, and store its keys and values.

        Returns:
            Hidden states [T, D] behind the last layer, and for each row where its last token is among them.
        """
        plan, hidden_1TD, rotation = step.plan, step.hidden_1TD, step.rotation
        kvs = packed_kvs(plan, step.rows, step.pool, self._kernels)
        for number, position in enumerate(plan.positions):
            if position.order is not None:
                order_T = torch.tensor(position.order, device=hidden_1TD.device)
                hidden_1TD = hidden_1TD[:, order_T]
                rotation = rotation and tuple(part[:, order_T] for part in rotation)
            if step.states is not None:
                here = [step.rows[row] for row in position.rows]
                starts = accumulate((row.tokens for row in here), initial=0)
                for row, start in zip(here, starts, strict=False):
                    exchange(number, row, hidden_1TD[0, start : start + row.tokens], step.states)
            for visit in position.visits:
                self._border.students = visit.students
                layer, kv = self._views[visit.layer], next(kvs)
                if visit.tokens == slice(0, hidden_1TD.shape[1]):
                    hidden_1TD = layer(hidden_1TD, position_embeddings=rotation, kv=kv)
                    continue
                here_1ND = hidden_1TD[:, visit.tokens]
                turn = rotation and tuple(part[:, visit.tokens] for part in rotation)
                here_1ND.copy_(layer(here_1ND, position_embeddings=turn, kv=kv))
        return hidden_1TD[0], plan.last
