"""Which size answers a latency budget, and what it is expected to take."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anysize.engine.limits import Limits
from anysize.engine.request import Timing
from anysize.engine.workload import Load, StepRow
from anysize.errors import BudgetError, BusyError
from anysize.family.family import Size
from anysize.family.variant import Variant
from anysize.sizing.budget import Budget, admitted
from anysize.sizing.correction import Corrected, Correction
from anysize.sizing.latency import LatencyModel
from anysize.sizing.lateness import Lateness
from anysize.sizing.load import Ask, Forecast, Outlook
from anysize.sizing.margin import Margin
from anysize.sizing.traffic import Traffic, steady

_MAX_RETRY_AFTER_S = 600


@dataclass(frozen=True, slots=True)
class Promise:
    """The size that answers a latency budget.

    Attributes:
        size: which.
        budget: that was asked for.
        forecast: the times that it is expected to take, as likely too long as too short.
        is_expected: whether it is expected to keep the budget, by the planner's margin.
    """

    size: Size
    budget: Budget
    forecast: Forecast
    is_expected: bool

    def is_kept(self, timing: Timing) -> bool:
        """Whether measured times are inside the budget."""
        return self.budget.holds(ttft_ms=timing.ttft_ms, tpot_ms=timing.tpot_ms, total_ms=timing.total_ms)


class Planner:
    """Chooses sizes for latency budgets. May be used from several threads.

    Args:
        model: predicts steps.
        limits: of the scheduler.
        margin: over predictions, for budgets to be kept, until steps have been seen.
    """

    def __init__(self, model: LatencyModel, limits: Limits, *, margin: Margin) -> None:
        self._model = model
        self._limits = limits
        self._lateness = Lateness(margin)
        self._correction = Correction(model)
        self._traffic = Traffic()

    def saw(self, rows: Sequence[StepRow], *, model_ms: float, whole_ms: float) -> None:
        """Learn from a step that the engine has run. Those that take prompts up at some layer say nothing.

        Args:
            rows: of the step.
            model_ms: how long the model took.
            whole_ms: how long it took with all around it.
        """
        if not any(row.is_resumed for row in rows):
            parts = self._model.parts_ms(rows)
            has_prompt = any(row.tokens > 1 for row in rows)
            self._lateness.saw(parts, whole_ms, self._correction.corrected(), has_prompt=has_prompt)
            self._correction.saw(parts, model_ms=model_ms, whole_ms=whole_ms)

    def arrived(self, ask: Ask, load: Load, now_s: float) -> None:
        """Learn of a request that has come to a load, whatever it asks for. See `Traffic`."""
        self._traffic.arrived(ask, now_s, is_alone=not load.running and not load.waiting)

    def answered(self, *, tokens: int, most: int) -> None:
        """Learn how many tokens an answer had, of those that it might have had."""
        self._traffic.answered(tokens=tokens, most=most)

    def tpot_ms(self, variant: Variant, *, rows: int, stored: int) -> float:
        """The expected time between two tokens in a batch of so many rows of one size."""
        return self._correction.corrected().tpot_ms(variant, rows=rows, stored=stored)

    def promise(self, ladder: Sequence[Size], budget: Budget, ask: Ask, load: Load) -> Promise:
        """The largest size that keeps every bound beside a load; where none does, what the budget says.

        It also has to be one that would keep them if everybody had it while requests come as they do at present.

        Args:
            ladder: the served sizes, smallest first.
            budget: with at least one bound of time.
            ask: the request.
            load: what the engine has before it.

        Raises:
            BudgetError: no size is inside the other bounds, or none would keep the times with nothing beside it, and
                the budget says `or_reject`.
            BusyError: some would with nothing beside it, but not now, and the budget says `or_reject`.
        """
        sizes = admitted(ladder, budget)
        model, margin = self._correction.corrected(), self._lateness.margin()
        now, idle = (self._forecasts(model, beside, ask) for beside in (load, Load()))
        if chosen := _largest(self._lasting(model, margin, sizes, budget, ask), budget, now, margin):
            return chosen
        if not budget.or_reject:
            return Promise(sizes[0], budget, now(sizes[0].variant), is_expected=False)
        if at_rest := _largest(sizes, budget, idle, margin):
            wait_ms = now(sizes[0].variant).ttft_ms
            raise BusyError(
                f"no size is expected to keep this latency budget under the present load; with nothing beside it "
                f"{at_rest.size.id!r} would. Now possible: {_possible(sizes[0], now, margin)}",
                min(max(1, math.ceil(wait_ms / 1e3)), _MAX_RETRY_AFTER_S),
            )
        raise BudgetError(
            "no size is expected to keep this latency budget, whatever the load. Possible with nothing beside it: "
            f"{_possible(sizes[0], idle, margin)}"
        )

    def _forecasts(self, model: Corrected, load: Load, ask: Ask) -> Callable[[Variant], Forecast]:
        outlook = Outlook(model, self._limits, load)
        return lambda variant: outlook.forecast(variant, ask)

    def _lasting(
        self, model: Corrected, margin: Margin, sizes: Sequence[Size], budget: Budget, ask: Ask
    ) -> Sequence[Size]:
        """The sizes that keep a budget in the present traffic for ever; the smallest where none does."""
        flow = self._traffic.flow()
        if not flow.answers_per_s:
            return sizes
        longest_ms = max(ms for ms in (budget.ttft_ms, budget.tpot_ms, budget.total_ms) if ms is not None)
        for count in range(len(sizes), 1, -1):
            variant = sizes[count - 1].variant
            times = steady(model, self._limits, variant, ask, flow, longest_ms).at_most(margin)
            if budget.holds(ttft_ms=times.ttft_ms, tpot_ms=times.tpot_ms, total_ms=times.total_ms):
                return sizes[:count]
        return sizes[:1]


def _largest(
    sizes: Sequence[Size], budget: Budget, forecasts: Callable[[Variant], Forecast], margin: Margin
) -> Promise | None:
    for size in reversed(sizes):
        forecast = forecasts(size.variant)
        likely = forecast.at_most(margin)
        if budget.holds(ttft_ms=likely.ttft_ms, tpot_ms=likely.tpot_ms, total_ms=likely.total_ms):
            return Promise(size, budget, forecast, is_expected=True)
    return None


def _possible(size: Size, forecasts: Callable[[Variant], Forecast], margin: Margin) -> str:
    likely = forecasts(size.variant).at_most(margin)
    tpot = "" if likely.tpot_ms is None else f"tpot_ms {likely.tpot_ms:.1f}, "
    return f"ttft_ms {likely.ttft_ms:.0f}, {tpot}total_ms {likely.total_ms:.0f} ({size.id})"
