"""A service without a model, on a clock of its own: the real scheduler and planner, steps as long as predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anysize.bench.burst import Arrival, Bounds, Policy
from anysize.engine.job import Job
from anysize.engine.limits import Limits
from anysize.engine.request import Timing
from anysize.engine.scheduler import Scheduler
from anysize.family.family import Size
from anysize.family.variant import Variant
from anysize.sizing.budget import Budget, admitted, stand_ins
from anysize.sizing.latency import LatencyModel
from anysize.sizing.load import Ask
from anysize.sizing.margin import Margin
from anysize.sizing.planner import Planner


@dataclass
class Place:
    """Pages without end."""

    variant: Variant
    length: int = 0
    border: int = 0


class EndlessPages:
    def keeps(self, prompt_tokens: int) -> bool:
        return False

    def reserve(self, variant: Variant, tokens: int, prompt_ids: object = (), *, keeps_answer: bool = False) -> Place:
        return Place(variant)

    def move(self, sequence: object, variant: Variant, tokens: int, token_ids: object) -> Place:
        return Place(variant)

    def release(self, sequence: object) -> None:
        pass


@dataclass
class Played:
    """One request of a trace, and what became of it; times in milliseconds."""

    arrival: Arrival
    job: Job | None = None
    variant: Variant | None = None
    first_ms: float = 0.0
    last_ms: float = 0.0
    pressure: float = 0.0

    def timing(self) -> Timing:
        at_ms, gaps = 1e3 * self.arrival.at_s, self.arrival.answer_tokens - 1
        return Timing(
            queue_ms=0,
            ttft_ms=self.first_ms - at_ms,
            tpot_ms=(self.last_ms - self.first_ms) / gaps if gaps else None,
            total_ms=self.last_ms - at_ms,
        )


def play(
    ladder: Sequence[Size],
    model: LatencyModel,
    limits: Limits,
    trace: Sequence[Arrival],
    policy: Policy,
    bounds: Bounds,
    *,
    slower: float = 1.0,
) -> list[Played]:
    """What becomes of each request; those without a job were refused.

    Args:
        ladder: the sizes.
        model: of the latencies.
        limits: of the scheduler.
        trace: when what comes.
        policy: which sizes answer.
        bounds: the budget of each request.
        slower: how many times longer steps take than the model says.
    """
    planner = Planner(model, limits, margin=Margin(1.05, 1.05))
    scheduler: Scheduler[Job] = Scheduler(limits, EndlessPages())
    played = [Played(one) for one in trace]
    by_job: dict[Job, Played] = {}
    clock_ms, coming = 0.0, 0
    while coming < len(played) or not scheduler.is_idle:
        if scheduler.is_idle:
            clock_ms = max(clock_ms, 1e3 * played[coming].arrival.at_s)
        while coming < len(played) and 1e3 * played[coming].arrival.at_s <= clock_ms:
            one = played[coming]
            coming += 1
            job = _job(one.arrival, ladder, policy, bounds, planner, scheduler)
            if scheduler.has_room(job.waiting_tokens):
                one.job = job
                by_job[job] = one
                scheduler.add(job)
            one.pressure = scheduler.pressure
        shares = scheduler.plan().shares
        step_ms = slower * model.step_ms(share.row for share in shares)
        planner.saw([share.row for share in shares], model_ms=step_ms, whole_ms=step_ms)
        clock_ms += step_ms
        for share in shares:
            one = by_job[share.run.job]
            is_due = share.ends_prompt_or_decodes
            scheduler.ran(share)
            one.variant = share.run.variant
            if is_due:
                one.first_ms = one.first_ms or clock_ms
                one.last_ms = clock_ms
            if share.run.ran_tokens == share.run.job.sequence_tokens:
                scheduler.finish(share.run)
    return played


def _job(
    arrival: Arrival,
    ladder: Sequence[Size],
    policy: Policy,
    bounds: Bounds,
    planner: Planner,
    scheduler: Scheduler[Job],
) -> Job:
    given: dict[str, Any] = {"prompt_tokens": arrival.prompt_tokens, "max_tokens": arrival.answer_tokens}
    if policy != "anysize":
        return Job(variants=(ladder[-1 if policy == "largest" else 0].variant,), **given)
    ask = Ask(arrival.prompt_tokens, arrival.answer_tokens)
    planner.arrived(ask, scheduler.load, arrival.at_s)
    budget = Budget(min_parameters=ladder[0].footprint.parameters, ttft_ms=bounds.ttft_ms, tpot_ms=bounds.tpot_ms)
    promise = planner.promise(ladder, budget, ask, scheduler.load)
    allowed = stand_ins(admitted(ladder, budget), promise.size, budget)
    return Job(variants=tuple(size.variant for size in allowed), **given)
