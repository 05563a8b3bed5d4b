"""Load that comes in bursts: how many requests keep their latency bounds on one size, and on sizes that follow it.

Arrivals are a Poisson process whose rate changes between two values, quiet and burst, for times that are exponentially
distributed. Rates are multiples of what the largest size answers in a second with every place taken, as the calibration
predicts it, so that the same bursts are as hard on any machine.
"""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any, Literal

from anysize.bench.decoding import prompts
from anysize.bench.desk import Desk
from anysize.engine.limits import Limits
from anysize.engine.request import Completion
from anysize.engine.workload import StepRow
from anysize.errors import OverloadedError
from anysize.family.family import Family
from anysize.sizing.budget import Budget
from anysize.sizing.latency import LatencyModel

Policy = Literal["largest", "smallest", "anysize", "resizing"]
POLICIES: tuple[Policy, ...] = ("largest", "smallest", "anysize", "resizing")

_PROMPT_TOKENS = (16, 64)
_ANSWER_TOKENS = (8, 40)


@dataclass(frozen=True, slots=True)
class Law:
    """How requests arrive.

    Attributes:
        quiet, burst: rates in the two states, over the capacity of the largest size.
        quiet_s, burst_s: mean time in each, in seconds.
        seconds: of the whole trace.
        seed: of the trace.
    """

    quiet: float
    burst: float
    quiet_s: float
    burst_s: float
    seconds: float
    seed: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace."""

    at_s: float
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """What every request asks for, in milliseconds: time to first token, and mean time between two after it."""

    ttft_ms: float
    tpot_ms: float


@dataclass(slots=True)
class _Tally:
    """What became of one trace under one policy."""

    done: list[Completion]
    refused: int = 0
    refused_above_floor: int = 0


def bench_burst(
    family: Family,
    model: LatencyModel,
    limits: Limits,
    open_desk: Callable[[], Any],
    law: Law,
    *,
    slack: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Play one trace four times: all on the largest size, all on the smallest, and twice on sizes that follow it.

    Every request has the same bounds: `slack` times what the largest size takes alone. The last two times they are its
    budget, with the smallest size as its floor; and the last time answers may also change their size under way.

    Args:
        family: that is served.
        model: of the latencies; capacity and bounds come from it.
        limits: of the engine.
        open_desk: a context manager that gives a `Desk` on an engine of its own.
        law: of the arrivals.
        slack: see above.
        say: told in one line what is being done.

    Returns:
        For each policy the share of all requests that kept both bounds, refusals and mean size over all tokens; and
        `ratio_attainment_over_largest`, `ratio_size_over_smallest` and their like, also for answers that resize.
    """
    capacity_per_s = _capacity_per_s(family, model, limits)
    trace = arrivals(law, capacity_per_s)
    bounds = _bounds(family, model, slack)
    report: dict[str, Any] = {
        "benchmark": "burst",
        "law": asdict(law),
        "requests": len(trace),
        "capacity_of_largest_requests_per_s": capacity_per_s,
        "ttft_bound_ms": bounds.ttft_ms,
        "tpot_bound_ms": bounds.tpot_ms,
    }
    for policy in POLICIES:
        say(f"{policy}: {len(trace)} requests in {law.seconds:g} s")
        with open_desk() as desk:
            tally = _play(desk, trace, policy, bounds)
        kept = sum(_is_kept(one, bounds) for one in tally.done)
        report[policy] = {
            "attainment": kept / len(trace),
            "answered": len(tally.done),
            "refused": tally.refused,
            "refused_above_floor": tally.refused_above_floor,
            "mean_parameters": statistics.fmean(map(_parameters, tally.done)),
            "ttft_p95_ms": _p95([one.timing.ttft_ms for one in tally.done]),
            "tpot_p95_ms": _p95([one.timing.tpot_ms for one in tally.done if one.timing.tpot_ms is not None]),
        }
    for policy, name in (("anysize", ""), ("resizing", "resizing_")):
        for other in ("largest", "smallest"):
            theirs = max(report[other]["attainment"], 1 / len(trace))
            report[f"ratio_{name}attainment_over_{other}"] = report[policy]["attainment"] / theirs
        smallest = family.ladder[0].footprint.parameters
        report[f"ratio_{name}size_over_smallest"] = report[policy]["mean_parameters"] / smallest
    return report


def arrivals(law: Law, capacity_per_s: float) -> list[Arrival]:
    """The trace of a law; it begins quiet and holds at least one request."""
    chance = random.Random(law.seed)  # noqa: S311  (no secret)
    found: list[Arrival] = []
    at_s, is_burst, changes_s = 0.0, False, chance.expovariate(1 / law.quiet_s)
    while True:
        gap_s = chance.expovariate(capacity_per_s * (law.burst if is_burst else law.quiet))
        if at_s + gap_s > changes_s:
            # The process has no memory: from the change on it starts anew at the other rate.
            at_s, is_burst = changes_s, not is_burst
            changes_s += chance.expovariate(1 / (law.burst_s if is_burst else law.quiet_s))
        else:
            at_s += gap_s
            if at_s <= law.seconds or not found:
                found.append(Arrival(at_s, chance.randint(*_PROMPT_TOKENS), chance.randint(*_ANSWER_TOKENS)))
        if at_s > law.seconds:
            return found


def _play(desk: Desk, trace: Sequence[Arrival], policy: Policy, bounds: Bounds) -> _Tally:
    ladder = desk.family.ladder
    prompt_ids = prompts(desk.family, 1, _PROMPT_TOKENS[1])[0]
    budget = Budget(min_parameters=ladder[0].footprint.parameters, ttft_ms=bounds.ttft_ms, tpot_ms=bounds.tpot_ms)
    tally = _Tally([])
    futures: list[Future[Completion]] = []
    started_s = time.monotonic()
    for arrival in trace:
        time.sleep(max(0.0, started_s + arrival.at_s - time.monotonic()))
        prompt = prompt_ids[: arrival.prompt_tokens]
        try:
            if policy in ("anysize", "resizing"):
                resize = policy == "resizing"
                futures.append(desk.budgeted(prompt, arrival.answer_tokens, budget, resize=resize))
            else:
                size = ladder[-1] if policy == "largest" else ladder[0]
                futures.append(desk.fixed(prompt, arrival.answer_tokens, size))
        except OverloadedError:
            tally.refused += 1
            tally.refused_above_floor += policy in ("anysize", "resizing") and desk.engine.state().pressure < 1
    for future in futures:
        try:
            tally.done.append(future.result())
        except OverloadedError:  # its turn did not come in time
            tally.refused += 1
    return tally


def _capacity_per_s(family: Family, model: LatencyModel, limits: Limits) -> float:
    """Requests a second that the largest size answers with every place taken."""
    rows, variant = limits.max_running_requests, family.teacher.variant
    prompt, answer = (sum(ends) // 2 for ends in (_PROMPT_TOKENS, _ANSWER_TOKENS))
    step_ms = model.step_ms([StepRow(variant, 1, prompt + answer // 2, True)] * rows)
    prefill_ms = model.step_ms([StepRow(variant, prompt, 0, True)])
    return 1e3 / (prefill_ms + answer * step_ms / rows)


def _bounds(family: Family, model: LatencyModel, slack: float) -> Bounds:
    variant, stored = family.teacher.variant, _PROMPT_TOKENS[1] + _ANSWER_TOKENS[1]
    alone_ms = model.step_ms([StepRow(variant, 1, stored, True)])
    prefill_ms = model.step_ms([StepRow(variant, _PROMPT_TOKENS[1], 0, True)])
    return Bounds(slack * prefill_ms, slack * alone_ms)


def _is_kept(completion: Completion, bounds: Bounds) -> bool:
    timing = completion.timing
    return timing.ttft_ms <= bounds.ttft_ms and (timing.tpot_ms is None or timing.tpot_ms <= bounds.tpot_ms)


def _parameters(completion: Completion) -> float:
    """Mean over the tokens of an answer."""
    (answer,) = completion.choices
    if not answer.spans:
        return completion.size.footprint.parameters
    return statistics.fmean(
        (span.size.footprint.parameters for span in answer.spans), [span.tokens for span in answer.spans]
    )


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[max(0, round(0.95 * len(values)) - 1)] if values else 0.0
