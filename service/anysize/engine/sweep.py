"""The bank made runnable: one sweep over its layers advances every row of a step, whatever their variants."""

from collections import abc
from functools import lru_cache

import torch
from torch import Tensor, nn

from anysize.engine.ends import Ends
from anysize.engine.hidden import HiddenStates
from anysize.engine.kernels.compiled import MOST_TOKENS, CompiledLayers
from anysize.engine.kernels.kernels import Kernels
from anysize.engine.layers import Layers, layer_views
from anysize.engine.linear import Ways
from anysize.engine.mixed import Border, is_delta
from anysize.engine.pages import PagePool
from anysize.engine.plan import plan_step
from anysize.engine.rotary import Rotary
from anysize.engine.sequence import Row
from anysize.engine.step import Step, shape_of
from anysize.engine.tuning import tuned
from anysize.family.assembly import view
from anysize.family.bank import Bank

_REMEMBERED_PLANS = 64


class Sweep:
    """What a step goes through: embeddings, layers, heads.

    Each layer runs at most once a step, so its weights are read at most once. Steps of few tokens go through all layers
    in one call, where there are kernels that know them. All views are this object's own.

    Args:
        bank: the weights.
        kernels: compiled ones, where they are to be used.
    """

    def __init__(self, bank: Bank, kernels: Kernels | None = None) -> None:
        weight = next(bank.teacher.parameters())
        self._device = weight.device
        can_be_tuned = weight.device.type == "cpu" and weight.dtype is torch.float32
        means = (kernels or Ways.tried(_linear_weights(bank.teacher))) if can_be_tuned else None

        def tune(seen: nn.Module) -> nn.Module:
            return seen if means is None else tuned(seen, means)

        shares_base, border = is_delta(bank), Border()
        views = layer_views(bank, border, shares_base=shares_base)
        self._plan = lru_cache(maxsize=_REMEMBERED_PLANS)(
            lambda shape: plan_step(bank.blocks, shape, shares_base=shares_base)
        )
        self._compiled = CompiledLayers.of(views, kernels) if kernels and can_be_tuned else None
        self._kernels = kernels
        self._layers = Layers({ref: tune(view(layer)) for ref, layer in views.items()}, border, kernels)
        self._ends = Ends(bank, tune)
        rotary = getattr(bank.architecture.backbone_of(bank.teacher), "rotary_emb", None)
        self._rotary = None if rotary is None else Rotary(rotary)

    @property
    def keys_depend_on_length(self) -> bool:
        """Whether the keys of a token follow from how many come after it, so that no other sequence can use them."""
        return self._rotary is not None and self._rotary.depends_on_length

    def run(self, rows: abc.Sequence[Row], pool: PagePool, states: HiddenStates | None = None) -> Tensor:
        """Advance rows by their tokens: store keys and values, compute the logits that are wanted.

        Args:
            rows: at least one.
            pool: where the keys and values of their sequences are.
            states: where the hidden states of their prompts are kept, and come from where a row is taken up late.

        Returns:
            Logits [rows with `wants_logits`, V], in the order of the rows.
        """
        is_small = sum(row.tokens for row in rows) <= MOST_TOKENS
        if self._kernels is None or self._compiled is None or not is_small:
            return self._run(self._layers, rows, pool, states)
        with self._kernels.alone():
            return self._run(self._compiled, rows, pool, states)

    def _run(
        self, layers: Layers | CompiledLayers, rows: abc.Sequence[Row], pool: PagePool, states: HiddenStates | None
    ) -> Tensor:
        plan = self._plan(shape_of(rows))
        packed = [rows[row] for row in plan.rows]
        positions_1T = torch.tensor([_positions(packed)], device=self._device)
        hidden_1TD = self._ends.embed(packed, positions_1T)
        rotation = self._rotary and self._rotary.of(packed, hidden_1TD, positions_1T)
        step = Step(rows, plan, hidden_1TD, rotation, pool, states)
        hidden_TD, last = layers.run(step)
        wanted = [number for number, row in enumerate(rows) if row.wants_logits]
        return self._ends.logits(
            hidden_TD,
            [rows[row].sequence.variant.head_owner for row in wanted],
            [last[row] for row in wanted],
        )


def _positions(packed: abc.Sequence[Row]) -> list[int]:
    return [position for row in packed for position in range(row.start, row.start + row.tokens)]


def _linear_weights(model: nn.Module) -> list[Tensor]:
    return [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
