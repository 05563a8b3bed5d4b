"""Which size a latency budget gets under a load, and what is foreseen."""

from functools import cache
from typing import Any

import pytest
from calibrated import evenly
from fakes import byte_tokenizer, tiny_bank
from hypothesis import given
from hypothesis import strategies as st
from simulation import EndlessPages

from anysize.engine.job import Job
from anysize.engine.limits import Limits
from anysize.engine.scheduler import Scheduler
from anysize.engine.workload import Load, StepRow, Underway
from anysize.errors import BudgetError, BusyError
from anysize.family.family import Family
from anysize.family.variant import Variant
from anysize.sizing.budget import Budget
from anysize.sizing.correction import Corrected
from anysize.sizing.latency import LatencyModel, Shape
from anysize.sizing.load import Ask, Forecast, Outlook
from anysize.sizing.margin import Margin
from anysize.sizing.planner import Planner

LIMITS = Limits(
    max_queued_requests=64,
    max_queued_tokens=1 << 20,
    max_running_requests=4,
    max_step_tokens=32,
    prefill_chunk_tokens=16,
)
COSTS = {
    "steps": 1.0,
    "teacher_reads": 0.5,
    **evenly("teacher", 0.05),
    "student_reads": 0.1,
    "head_reads": 0.5,
    **evenly("head", 0.05),
    "attention_rows": 0.01,
    "attention_stored": 0.001,
    "attention_pairs": 0.0001,
}
MARGIN, NONE = Margin(1.5, 1.25), Margin()


@cache
def family() -> Family:
    bank = tiny_bank("llama", teacher_layers=12, kept=(0, 2, 3, 6, 10), kind="delta")
    return Family("tiny", bank, byte_tokenizer())


def model() -> LatencyModel:
    return LatencyModel.of(Shape((2, 1, 3, 4, 2), shares_base=True, shares_head=True), COSTS)


def planner(margin: Margin = NONE) -> Planner:
    return Planner(model(), LIMITS, margin=margin)


ladder_variants = st.sampled_from([size.variant for size in family().ladder])
running = st.builds(Underway, ladder_variants, st.integers(0, 40), st.integers(1, 60), st.integers(1, 20))
waiting = st.builds(Underway, ladder_variants, st.integers(1, 40), st.just(0), st.integers(1, 20))
loads = st.builds(Load, st.lists(running, max_size=4).map(tuple), st.lists(waiting, max_size=6).map(tuple))
asks = st.builds(Ask, st.integers(1, 60), st.integers(1, 20), st.integers(1, 3))
bounds = st.none() | st.floats(0.5, 400)


def by_scheduler(ahead: list[Job], asked: Job) -> tuple[float, float]:
    """Time to first token and to the last, by the real scheduler's steps one after another."""
    scheduler: Scheduler[Job] = Scheduler(LIMITS, EndlessPages())
    for job in [*ahead, asked]:
        scheduler.add(job)
    clock_ms, first_ms = 0.0, 0.0
    while not scheduler.is_idle:
        shares = scheduler.plan().shares
        clock_ms += model().step_ms(share.row for share in shares)
        for share in shares:
            if share.ends_prompt_or_decodes and share.run.job is asked and not first_ms:
                first_ms = clock_ms
            scheduler.ran(share)
            if share.run.ran_tokens == share.run.job.sequence_tokens:
                scheduler.finish(share.run)
                if share.run.job is asked and asked not in [run.job for run in scheduler.running]:
                    return first_ms, clock_ms
    raise AssertionError("the request never ended")


jobs = st.builds(
    lambda variant, prompt, answer: Job(variants=(variant,), prompt_tokens=prompt, max_tokens=answer),
    ladder_variants,
    st.integers(1, 60),
    st.integers(1, 20),
)


@given(st.lists(jobs, max_size=7), jobs)
def test_what_is_foreseen_is_what_the_scheduler_does(ahead: list[Job], asked: Job):
    waiting = [Underway(job.variants[0], job.prompt_tokens, 0, job.max_tokens) for job in ahead]
    ask = Ask(asked.prompt_tokens, asked.max_tokens)
    foreseen = Outlook(Corrected(model()), LIMITS, Load((), tuple(waiting))).forecast(asked.variants[0], ask)
    ttft_ms, total_ms = by_scheduler(ahead, asked)
    # Steps that are alike are taken together, at the mean of what they attend to.
    assert foreseen.ttft_ms == pytest.approx(ttft_ms, rel=0.02)
    assert foreseen.total_ms == pytest.approx(total_ms, rel=0.02)
    if asked.max_tokens > 1:
        assert foreseen.tpot_ms == pytest.approx((total_ms - ttft_ms) / (asked.max_tokens - 1), rel=0.05)
    else:
        assert foreseen.tpot_ms is None


@given(st.lists(jobs, min_size=1, max_size=6), st.integers(1, 25))
def test_the_scheduler_tells_what_is_left(ahead: list[Job], steps: int):
    scheduler: Scheduler[Job] = Scheduler(LIMITS, EndlessPages())
    for job in ahead:
        scheduler.add(job)
    for _ in range(steps):
        if scheduler.is_idle:
            break
        for share in scheduler.plan().shares:
            scheduler.ran(share)
            if share.run.ran_tokens == share.run.job.sequence_tokens:
                scheduler.finish(share.run)
    load = scheduler.load
    assert len(load.running) == len(scheduler.running)
    assert len(load.waiting) == len(scheduler.waiting)
    for left, run in zip(load.running, scheduler.running, strict=True):
        assert left.stored == run.ran_tokens
        assert left.prompt_left == max(0, run.job.prompt_tokens - run.ran_tokens)
        # As many steps as it takes to run the rest of the prompt and all tokens of the answer but the last.
        still_to_run = run.job.sequence_tokens - run.ran_tokens
        assert left.prompt_left + left.answer_left - bool(left.prompt_left) == still_to_run


@given(loads, asks, bounds, bounds, bounds)
def test_the_largest_size_that_is_foreseen_to_fit_answers(
    load: Load, ask: Ask, ttft_ms: float | None, tpot_ms: float | None, total_ms: float | None
):
    budget = Budget(ttft_ms=ttft_ms, tpot_ms=tpot_ms, total_ms=total_ms)
    outlook = Outlook(Corrected(model()), LIMITS, load)

    def fits(variant: Variant) -> bool:
        likely = outlook.forecast(variant, ask).at_most(MARGIN)
        return all(
            bound is None or ms is None or ms <= bound
            for ms, bound in ((likely.ttft_ms, ttft_ms), (likely.tpot_ms, tpot_ms), (likely.total_ms, total_ms))
        )

    fitting = [size for size in family().ladder if fits(size.variant)]
    promise = planner(MARGIN).promise(family().ladder, budget, ask, load)
    assert promise.size == (fitting or family().ladder)[-1 if fitting else 0]
    assert promise.is_expected == bool(fitting)
    assert promise.forecast == outlook.forecast(promise.size.variant, ask)


@given(loads, asks, bounds, bounds, bounds, st.sampled_from(["ttft_ms", "tpot_ms", "total_ms"]), st.floats(0.1, 1))
def test_a_tighter_bound_never_gives_a_larger_size(
    load: Load,
    ask: Ask,
    ttft_ms: float | None,
    tpot_ms: float | None,
    total_ms: float | None,
    tightened: str,
    by: float,
):
    loose: dict[str, Any] = {"ttft_ms": ttft_ms, "tpot_ms": tpot_ms, "total_ms": total_ms}
    tight: dict[str, Any] = {**loose, tightened: by * (loose[tightened] or 400)}
    sizes = [planner().promise(family().ladder, Budget(**one), ask, load).size for one in (loose, tight)]
    assert sizes[1].footprint.parameters <= sizes[0].footprint.parameters


def test_the_other_bounds_hold_too_and_the_smallest_inside_them_is_the_last_resort():
    middle = family().ladder[2]
    for ttft_ms, is_expected in ((1e6, True), (1e-3, False)):
        budget = Budget(ttft_ms=ttft_ms, parameters=middle.footprint.parameters)
        promise = planner().promise(family().ladder, budget, Ask(8, 8), Load())
        assert promise.size == (middle if is_expected else family().ladder[0])
        assert promise.is_expected is is_expected
    with pytest.raises(BudgetError):
        planner().promise(family().ladder, Budget(ttft_ms=1e6, parameters=1), Ask(8, 8), Load())


def test_what_no_size_can_keep_is_refused_with_what_is_possible():
    budget = Budget(tpot_ms=0.01, or_reject=True)
    with pytest.raises(BudgetError) as refusal:
        planner(Margin(2.0, 2.0)).promise(family().ladder, budget, Ask(8, 8), Load())
    smallest = family().ladder[0]
    possible = (
        Outlook(Corrected(model()), LIMITS, Load()).forecast(smallest.variant, Ask(8, 8)).at_most(Margin(2.0, 2.0))
    )
    assert f"tpot_ms {possible.tpot_ms:.1f}" in str(refusal.value)
    assert smallest.id in str(refusal.value)


def test_what_only_the_load_forbids_may_be_asked_again():
    ask = Ask(8, 8)
    alone = Outlook(Corrected(model()), LIMITS, Load()).forecast(family().teacher.variant, ask)
    budget = Budget(ttft_ms=1.01 * alone.ttft_ms, or_reject=True)
    assert planner().promise(family().ladder, budget, ask, Load()).size == family().teacher
    crowd = Load(waiting=(Underway(family().teacher.variant, 100, 0, 100),) * 20)
    with pytest.raises(BusyError) as refusal:
        planner().promise(family().ladder, budget, ask, crowd)
    assert refusal.value.retry_after_s >= 1


def test_more_load_never_makes_a_request_faster():
    ask, variant = Ask(20, 10), family().teacher.variant
    times = [
        Outlook(Corrected(model()), LIMITS, Load(waiting=(Underway(variant, 30, 0, 10),) * count)).forecast(
            variant, ask
        )
        for count in range(12)
    ]
    assert [one.ttft_ms for one in times] == sorted(one.ttft_ms for one in times)
    assert [one.total_ms for one in times] == sorted(one.total_ms for one in times)


def test_each_time_of_a_forecast_is_stretched_by_what_so_many_steps_may_be_late():
    margin = Margin(1.4, 1.2)
    stretched = Forecast(2.0, 3.0, 50.0, ttft_steps=1, total_steps=17).at_most(margin)
    assert stretched.ttft_ms == pytest.approx(2.0 * 1.4)
    assert stretched.tpot_ms == pytest.approx(3.0 * 1.25)
    assert 50.0 * 1.2 < stretched.total_ms < 50.0 * 1.25
    assert Forecast(2.0, None, 2.0, 1, 1).at_most(margin).tpot_ms is None


@given(st.floats(1, 3), st.floats(1, 3), st.integers(1, 100))
def test_the_more_steps_the_less_chance_counts(one: float, other: float, steps: int):
    margin = Margin(max(one, other), min(one, other))
    assert margin.over(1) == pytest.approx(margin.step)
    assert margin.lasting <= margin.over(steps + 1) <= margin.over(steps) <= margin.step + 1e-9


STEP = [StepRow(family().teacher.variant, 1, 10, True)]
PROMPT = [StepRow(family().teacher.variant, 12, 0, True)]


def test_a_prompt_that_is_taken_up_at_some_layer_teaches_nothing():
    taught = planner()
    taught.saw([StepRow(family().teacher.variant, 8, 16, True, is_resumed=True)], model_ms=1e6, whole_ms=1e6)
    budget, ask = Budget(ttft_ms=1e6), Ask(8, 8)
    assert taught.promise(family().ladder, budget, ask, Load()) == planner().promise(
        family().ladder, budget, ask, Load()
    )


def test_what_was_learned_changes_what_is_promised():
    slow = planner()
    for _ in range(200):
        for rows in (STEP, PROMPT):
            slow.saw(rows, model_ms=2 * model().step_ms(rows), whole_ms=2 * model().step_ms(rows))
    budget, ask = Budget(ttft_ms=1e6), Ask(8, 8)
    fresh = planner().promise(family().ladder, budget, ask, Load()).forecast
    assert slow.promise(family().ladder, budget, ask, Load()).forecast.ttft_ms == pytest.approx(
        2 * fresh.ttft_ms, rel=0.02
    )
    assert slow.tpot_ms(STEP[0].variant, rows=1, stored=10) == pytest.approx(2 * model().step_ms(STEP), rel=0.02)


def test_steps_that_come_late_by_chance_widen_what_is_asked_for():
    taught, ask = planner(), Ask(12, 2)
    budget = Budget(ttft_ms=1.1 * planner().promise(family().ladder, Budget(ttft_ms=1e6), ask, Load()).forecast.ttft_ms)
    for _ in range(300):
        for chance in (0.7, 1.3):
            step_ms = chance * model().step_ms(PROMPT)
            taught.saw(PROMPT, model_ms=step_ms, whole_ms=step_ms)

    assert planner().promise(family().ladder, budget, ask, Load()).size == family().teacher
    assert taught.promise(family().ladder, budget, ask, Load()).size != family().teacher
