"""The bank made runnable: one sweep over its layers advances every row of a step, whatever their variants."""

import copy
from collections import abc
from functools import lru_cache

import torch
from torch import Tensor, nn

from anysize.engine.attention import NAME
from anysize.engine.ends import Ends
from anysize.engine.hidden import HiddenStates
from anysize.engine.kernels.kernels import Kernels
from anysize.engine.mixed import Border, is_delta, mixed
from anysize.engine.packing import packed_kvs
from anysize.engine.pages import PagePool
from anysize.engine.plan import Plan, plan_step
from anysize.engine.sequence import Row
from anysize.engine.tuning import tuned
from anysize.family.assembly import view
from anysize.family.bank import Bank
from anysize.family.variant import LayerRef, Owner

_REMEMBERED_PLANS = 64
# Kinds of rotary embedding whose frequencies follow from the longest sequence of the call.
_BY_LENGTH = ("dynamic", "longrope")

Rotation = tuple[Tensor, ...]


class Sweep:
    """Views of every layer of the bank, and the order in which a step uses them.

    Each layer runs at most once a step, so its weights are read at most once. The views are this object's own.

    Args:
        bank: the weights.
        kernels: compiled ones, where they are to be used.
    """

    def __init__(self, bank: Bank, kernels: Kernels | None = None) -> None:
        weight = next(bank.teacher.parameters())
        self._device = weight.device
        self._kernels = kernels
        self._can_be_tuned = weight.device.type == "cpu" and weight.dtype is torch.float32
        self._border = Border()
        self._shares_base = is_delta(bank)
        self._layers = self._views(bank)
        self._ends = Ends(bank, self._tuned)
        rotary = getattr(bank.architecture.backbone_of(bank.teacher), "rotary_emb", None)
        self._rotary = copy.deepcopy(rotary)  # small, and some kinds write to their buffers
        self._plan = lru_cache(maxsize=_REMEMBERED_PLANS)(
            lambda rows: plan_step(bank.blocks, rows, shares_base=self._shares_base)
        )

    @property
    def keys_depend_on_length(self) -> bool:
        """Whether the keys of a token follow from how many come after it, so that no other sequence can use them."""
        return getattr(self._rotary, "rope_type", None) in _BY_LENGTH

    def run(self, rows: abc.Sequence[Row], pool: PagePool, states: HiddenStates | None = None) -> Tensor:
        """Advance rows by their tokens: store keys and values, compute the logits that are wanted.

        Args:
            rows: at least one.
            pool: where the keys and values of their sequences are.
            states: where the hidden states of their prompts are kept, and come from where a row is taken up late.

        Returns:
            Logits [rows with `wants_logits`, V], in the order of the rows.
        """
        plan: Plan = self._plan(tuple((row.sequence.variant, len(row.token_ids), row.entry) for row in rows))
        packed = [rows[row] for row in plan.rows]
        positions_1T = torch.tensor([_positions(packed)], device=self._device)
        hidden_1TD = self._ends.embed(packed, positions_1T)
        rotation = self._rotation(packed, hidden_1TD, positions_1T)
        kvs = packed_kvs(plan, rows, pool, self._kernels)
        for number, position in enumerate(plan.positions):
            if position.order is not None:
                order_T = torch.tensor(position.order, device=self._device)
                hidden_1TD = hidden_1TD[:, order_T]
                rotation = rotation and tuple(part[:, order_T] for part in rotation)
            if states is not None:
                _exchange(number, [rows[row] for row in position.rows], hidden_1TD[0], states)
            for visit in position.visits:
                self._border.students = visit.students
                layer, kv = self._layers[visit.layer], next(kvs)
                if visit.tokens == slice(0, hidden_1TD.shape[1]):
                    hidden_1TD = layer(hidden_1TD, position_embeddings=rotation, kv=kv)
                    continue
                here_1ND = hidden_1TD[:, visit.tokens]
                turn = rotation and tuple(part[:, visit.tokens] for part in rotation)
                here_1ND.copy_(layer(here_1ND, position_embeddings=turn, kv=kv))
        wanted = [number for number, row in enumerate(rows) if row.wants_logits]
        return self._ends.logits(
            hidden_1TD[0],
            [rows[row].sequence.variant.head_owner for row in wanted],
            [plan.last[row] for row in wanted],
        )

    def _views(self, bank: Bank) -> dict[LayerRef, nn.Module]:
        config = copy.copy(bank.teacher.config)
        config._attn_implementation = NAME
        refs = [LayerRef(Owner.TEACHER, layer) for layer in range(bank.blocks.teacher_layers)]
        if not self._shares_base:
            refs += [LayerRef(Owner.STUDENT, layer) for layer in range(bank.blocks.student_layers)]
        layers = {ref: bank.layer(ref) for ref in refs}
        if self._shares_base:
            for position, kept in enumerate(bank.blocks.kept):
                ref = LayerRef(Owner.TEACHER, kept)
                layers[ref] = mixed(bank.layer(LayerRef(Owner.STUDENT, position)), layers[ref], self._border)
        return {ref: self._tuned(view(layer, config)) for ref, layer in layers.items()}

    def _tuned(self, seen: nn.Module) -> nn.Module:
        return tuned(seen, self._kernels) if self._can_be_tuned else seen

    def _rotation(self, packed: abc.Sequence[Row], hidden_1TD: Tensor, positions_1T: Tensor) -> Rotation | None:
        """Cosines and sines for the tokens, as layers take them; None where positions are learned."""
        if self._rotary is None:
            return None
        if not self.keys_depend_on_length:
            return self._rotary(hidden_1TD, positions_1T)
        # Each row by itself and on a fresh view, because such a module remembers the longest sequence that it has seen.
        by_row = positions_1T.split([len(row.token_ids) for row in packed], dim=1)
        parts = [view(self._rotary)(hidden_1TD, positions_1N) for positions_1N in by_row]
        return tuple(torch.cat(of_rows, dim=1) for of_rows in zip(*parts, strict=True))


def _exchange(position: int, packed: abc.Sequence[Row], hidden_TD: Tensor, states: HiddenStates) -> None:
    """Bring in the hidden states of the rows that are taken up at a position, and keep those of the others there."""
    start = 0
    for row in packed:
        tokens = len(row.token_ids)
        here_ND = hidden_TD[start : start + tokens]
        start += tokens
        lease = row.sequence.lease
        if lease is None or (pages := lease.state_pages.get(position)) is None:
            continue
        if row.entry == position:
            here_ND.copy_(states.read(pages, row.start, row.start + tokens))
        else:
            states.write(pages, row.start, here_ND)


def _positions(packed: abc.Sequence[Row]) -> list[int]:
    return [
        position for row in packed for position in range(row.sequence.length, row.sequence.length + len(row.token_ids))
    ]
