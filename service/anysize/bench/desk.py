"""An engine with a planner, as a service puts them together, asked without HTTP."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace

from anysize.engine.engine import Engine, StepReport
from anysize.engine.limits import Limits
from anysize.engine.model import Model
from anysize.engine.pace import Pace
from anysize.engine.request import Completion, GenerationRequest, Sampling
from anysize.family.family import Family, Size
from anysize.settings import Settings
from anysize.sizing.budget import Budget, admitted, stand_ins
from anysize.sizing.calibration import Calibration
from anysize.sizing.load import Ask
from anysize.sizing.planner import Planner


@dataclass(frozen=True, slots=True)
class Desk:
    """Where benchmarks hand requests in.

    Attributes:
        family: what is served.
        engine: that runs.
        planner: that it teaches.
    """

    family: Family
    engine: Engine
    planner: Planner

    def budgeted(
        self, prompt_ids: Sequence[int], max_tokens: int, budget: Budget, *, resize: bool = False
    ) -> "Future[Completion]":
        """The size that the budget gives; where it has a floor, a smaller one under load; any, if it may change.

        Raises:
            OverloadedError: the queue is full.
        """
        ask = Ask(len(prompt_ids), max_tokens)
        load = self.engine.load()
        self.planner.arrived(ask, load, time.monotonic())
        promise = self.planner.promise(self.family.ladder, budget, ask, load)
        sizes = admitted(self.family.ladder, budget)
        request = self._request(prompt_ids, max_tokens, promise.size)
        if resize:
            pace = Pace(budget.tpot_ms, budget.total_ms)
            request = replace(request, allowed=tuple(sizes), is_resizable=True, pace=pace)
        else:
            request = replace(request, allowed=stand_ins(sizes, promise.size, budget))
        return self.engine.submit(request)

    def fixed(self, prompt_ids: Sequence[int], max_tokens: int, size: Size) -> "Future[Completion]":
        """One size.

        Raises:
            OverloadedError: the queue is full.
        """
        return self.engine.submit(self._request(prompt_ids, max_tokens, size))

    def _request(self, prompt_ids: Sequence[int], max_tokens: int, size: Size) -> GenerationRequest:
        sampling = Sampling(max_tokens=max_tokens)
        return GenerationRequest(id="bench", prompt_ids=list(prompt_ids), size=size, sampling=sampling)


@contextmanager
def desk(family: Family, model: Model, settings: Settings, calibration: Calibration) -> Iterator[Desk]:
    """Run an engine; it ends with everything that is still under way."""
    limits = Limits.of(settings)
    planner = Planner(calibration.model(), limits, margin=calibration.margin())

    def learn(report: StepReport) -> None:
        planner.saw(report.rows, model_ms=1e3 * report.duration_s, whole_ms=1e3 * report.whole_s)

    engine = Engine(family, model, limits, queue_timeout_s=settings.queue_timeout_s, on_step=learn)
    engine.start()
    try:
        yield Desk(family, engine, planner)
    finally:
        engine.stop(within_s=0)
