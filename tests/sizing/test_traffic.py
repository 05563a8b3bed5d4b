"""Sizes under bursts, in a service that is simulated: the real scheduler and planner on a clock of their own."""

import math
import statistics
from functools import cache
from itertools import pairwise

import pytest
from calibrated import evenly
from fakes import byte_tokenizer, tiny_bank
from hypothesis import given
from hypothesis import strategies as st
from simulation import Played, play

from anysize.bench.burst import Arrival, Bounds, Law, Policy, arrivals
from anysize.engine.limits import Limits
from anysize.engine.workload import StepRow
from anysize.family.family import Family
from anysize.sizing.correction import Corrected
from anysize.sizing.latency import LatencyModel, Shape
from anysize.sizing.load import Ask
from anysize.sizing.traffic import Flow, Traffic, steady

LIMITS = Limits(
    max_queued_requests=64,
    max_queued_tokens=1 << 20,
    max_running_requests=16,
    max_step_tokens=128,
    prefill_chunk_tokens=64,
)
# Milliseconds, in the proportions of a model of 135 M parameters on two cores, for layers twice as expensive.
COSTS = {
    "steps": 1.0,
    "teacher_reads": 2.0,
    **evenly("teacher", 0.15),
    "student_reads": 0.2,
    **evenly("student", 0.01),
    "head_reads": 3.0,
    **evenly("head", 0.4),
    "attention_stored": 0.0002,
}
CAPACITY_PER_S = 4.0
BOUNDS = Bounds(ttft_ms=160.0, tpot_ms=60.0)


@cache
def family() -> Family:
    bank = tiny_bank("llama", teacher_layers=12, kept=(0, 2, 3, 6, 10), kind="delta")
    return Family("tiny", bank, byte_tokenizer())


@cache
def model() -> LatencyModel:
    return LatencyModel.of(Shape((2, 1, 3, 4, 2), shares_base=True, shares_head=True), COSTS)


def played(law: Law, policy: Policy, slower: float = 1.0) -> list[Played]:
    return play(family().ladder, model(), LIMITS, arrivals(law, CAPACITY_PER_S), policy, BOUNDS, slower=slower)


def attainment(of: list[Played]) -> float:
    return sum(one.job is not None and is_kept(one) for one in of) / len(of)


def is_kept(one: Played) -> bool:
    timing = one.timing()
    return timing.ttft_ms <= BOUNDS.ttft_ms and (timing.tpot_ms is None or timing.tpot_ms <= BOUNDS.tpot_ms)


def mean_layers(of: list[Played]) -> float:
    return statistics.fmean(one.variant.depth(family().bank.blocks) for one in of if one.variant is not None)


@pytest.mark.parametrize("slower", [1.0, 1.2])
def test_bursts_are_survived_on_smaller_sizes_and_quiet_is_used_for_larger_ones(slower: float):
    laws = [Law(quiet=0.5, burst=1.6, quiet_s=8, burst_s=8, seconds=40, seed=seed) for seed in range(3)]
    policies: tuple[Policy, ...] = ("largest", "smallest", "anysize")
    largest, smallest, ours = ([one for law in laws for one in played(law, policy, slower)] for policy in policies)

    assert attainment(ours) >= 2 * attainment(largest)
    assert attainment(ours) >= 0.6 * attainment(smallest)
    assert mean_layers(ours) >= 1.3 * mean_layers(smallest)
    assert all(one.job is not None or one.pressure == 1 for one in ours), "refused above a floor"


def test_after_a_burst_the_largest_size_answers_again():
    burst = [Arrival(0.02 * number, 40, 24) for number in range(60)]
    calm = [Arrival(30.0 + 3.0 * number, 40, 24) for number in range(4)]
    ours = play(family().ladder, model(), LIMITS, [*burst, *calm], "anysize", BOUNDS)

    assert min(one.variant.depth(family().bank.blocks) for one in ours[20:60] if one.variant) == 5
    assert [one.variant for one in ours[-3:]] == [family().teacher.variant] * 3


def test_a_client_that_asks_for_one_answer_after_another_is_no_crowd():
    traffic = Traffic()
    for second in range(100):
        traffic.arrived(Ask(10, 4), second / 10, is_alone=True)
    assert traffic.flow().answers_per_s == 0
    for second in range(100):
        traffic.arrived(Ask(10, 4, samples=2), 10 + second / 10)
    # 20 answers a second, and a standard deviation of those that are remembered.
    assert 20 < traffic.flow().answers_per_s < 30
    traffic.arrived(Ask(10, 4), 1000)
    assert traffic.flow().answers_per_s < 1e-6


def test_answers_that_end_early_count_for_what_they_are():
    traffic = Traffic()
    traffic.arrived(Ask(10, 100), 0.0)
    for _ in range(200):
        traffic.answered(tokens=25, most=100)
    flow = traffic.flow()
    assert (flow.answers_per_s, flow.prompt_tokens) == (0, 10)
    assert flow.answer_tokens == pytest.approx(25)


@given(st.integers(1, 100), st.integers(1, 50), st.floats(0, 30), st.floats(1, 60), st.floats(1, 60))
def test_more_traffic_and_larger_sizes_never_make_anybody_faster(
    prompt: int, answer: int, rate: float, prompts: float, answers: float
):
    ask = Ask(prompt, answer)

    def times(place: int, per_s: float) -> tuple[float, ...]:
        flow = Flow(per_s, prompts, answers)
        forecast = steady(Corrected(model()), LIMITS, family().ladder[place].variant, ask, flow, 1e6)
        return forecast.ttft_ms, forecast.total_ms

    ladder = range(len(family().ladder))
    of_sizes = [times(place, rate) for place in ladder]
    # Rows are whole: what is rounded may differ by one between two sizes.
    assert all(a[1] <= 1.2 * b[1] for a, b in pairwise(of_sizes))
    assert times(0, 0.0)[1] <= times(0, rate)[1] * 1.0001


def test_without_traffic_it_is_what_the_steps_of_the_request_alone_take():
    variant, flow = family().teacher.variant, Flow(0, 0, 1)
    forecast = steady(Corrected(model()), LIMITS, variant, Ask(100, 3), flow, math.inf)
    row = StepRow(variant, 1, 0, True)
    prefill_ms = sum(
        model().step_ms([step]) for step in (StepRow(variant, 64, 0, False), StepRow(variant, 36, 64, True))
    )
    assert forecast.ttft_ms == pytest.approx(prefill_ms)
    assert forecast.total_ms == pytest.approx(prefill_ms + 2 * model().step_ms([row]))


def test_a_trace_follows_its_law():
    law = Law(quiet=0.5, burst=2.0, quiet_s=5, burst_s=5, seconds=4000, seed=3)
    trace = arrivals(law, 10.0)
    times = [one.at_s for one in trace]
    assert times == sorted(times)
    assert times[-1] <= law.seconds
    assert trace == arrivals(law, 10.0)
    # Half of the time at 5 a second, half of it at 20.
    assert len(trace) == pytest.approx(12.5 * 4000, rel=0.1)
