"""The policy of the scheduler, against everything that may be asked of it in any order."""

import random
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from models import limits

from anysize.engine.job import Job, Run, Share, Step
from anysize.engine.limits import Limits
from anysize.engine.scheduler import Scheduler
from anysize.family.variant import Variant
from anysize.settings import Settings as ServiceSettings

# Smallest first. A sequence of the second takes twice the pages of one of the first, and so on.
VARIANTS = (Variant.student(2), Variant((False, True)), Variant.teacher(2))
VARIANT = VARIANTS[0]
PAGE_TOKENS = 4


class Held(list[int]):
    """The pages of a sequence, its size, and how far its prompt is known."""

    variant = VARIANT
    length = 0
    border = 0


class Pool:
    """Pages, each with the sequence that holds it. Every other prompt is known in part, another part of it halfway.

    Attributes:
        keeps_prompts: whether those that have been run are known afterwards.
    """

    keeps_prompts = False

    def __init__(self, pages: int) -> None:
        self.chance = random.Random(pages)
        self.owners: list[object | None] = [None] * pages
        self.fails_at = -1  # which call of `reserve` from now on

    @property
    def free(self) -> int:
        return self.owners.count(None)

    def keeps(self, prompt_tokens: int) -> bool:
        return self.keeps_prompts

    def reserve(
        self, variant: Variant, tokens: int, prompt_ids: Sequence[int] = (), *, keeps_answer: bool = False
    ) -> Held | None:
        self.fails_at -= 1
        if self.fails_at == 0:
            raise MemoryError
        count = pages_of(variant, tokens)
        if count > self.free:
            return None
        sequence = Held([page for page, owner in enumerate(self.owners) if owner is None][:count])
        sequence.variant = variant
        if prompt_ids and self.chance.random() < 0.5:
            sequence.length = self.chance.randrange(len(prompt_ids))
            sequence.border = self.chance.randint(sequence.length, len(prompt_ids))
        for page in sequence:
            self.owners[page] = sequence
        return sequence

    def move(self, sequence: Held, variant: Variant, tokens: int, token_ids: Sequence[int]) -> Held | None:
        chance = self.chance.random()
        if chance < 0.2:
            return None
        if pages_of(variant, tokens) > self.free + len(sequence) or chance < 0.4:
            variant = sequence.variant
        self.release(sequence)
        place = self.reserve(variant, tokens, token_ids)
        assert place is not None
        return place

    def release(self, sequence: Held) -> None:
        for page in sequence:
            assert self.owners[page] is sequence, "a page is given back by one who does not hold it"
            self.owners[page] = None


def pages_of(variant: Variant, tokens: int) -> int:
    return (1 + VARIANTS.index(variant)) * -(-tokens // PAGE_TOKENS)


class SomeJob(Job):
    """A job whose answers are tokens of no meaning."""

    runs: dict[int, Run[Job]]

    def token_ids(self, sample: int) -> Sequence[int]:
        run = self.runs.get(sample)
        return range(max(self.prompt_tokens, run.ran_tokens + 1) if run else self.prompt_tokens)


def job(
    prompt_tokens: int = 4,
    max_tokens: int = 4,
    samples: int = 1,
    deadline_s: float = 1e9,
    *,
    sizes: int = 1,
    is_resizable: bool = False,
) -> Job:
    new = SomeJob(
        variants=VARIANTS[:sizes],
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        samples=samples,
        deadline_s=deadline_s,
        is_resizable=is_resizable,
    )
    new.runs = {}
    return new


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, cancels, steps, ends and lets time pass; what must hold is checked at each step and after each rule."""

    scheduler_class: type[Scheduler[Job]] = Scheduler

    @initialize(
        running=st.integers(1, 5),
        spare=st.integers(1, 12),
        chunk=st.integers(1, 9),
        pages=st.integers(10, 40),
        queued=st.integers(1, 8),
        queued_tokens=st.integers(40, 200),
    )
    def begin(self, running: int, spare: int, chunk: int, pages: int, queued: int, queued_tokens: int) -> None:
        self.limits = Limits(
            max_queued_requests=queued,
            max_queued_tokens=queued_tokens,
            max_running_requests=running,
            max_step_tokens=running + spare,
            prefill_chunk_tokens=chunk,
        )
        self.pool = Pool(pages)
        self.scheduler = self.scheduler_class(self.limits, self.pool)
        self.now_s = 0.0
        self.arrived: list[Job] = []  # and not dropped, in the order of their arrival
        self.unstarted: dict[Job, int] = {}
        self.left: dict[Run[Job], int] = {}  # tokens that each run still has to run

    @rule(
        prompt=st.integers(1, 16),
        answer=st.integers(1, 12),
        samples=st.integers(1, 3),
        patience=st.integers(1, 30),
        sizes=st.integers(1, 3),
    )
    def add(self, prompt: int, answer: int, samples: int, patience: int, sizes: int = 1) -> None:
        self.enter(job(prompt, answer, samples, self.now_s + patience, sizes=sizes))

    @rule(prompt=st.integers(1, 16), answer=st.integers(9, 24), sizes=st.integers(2, 3))
    def add_resizable(self, prompt: int, answer: int, sizes: int) -> None:
        self.enter(job(prompt, answer, sizes=sizes, is_resizable=True))

    def enter(self, new: Job) -> None:
        new.prompt_ids = range(new.prompt_tokens)
        if not self.scheduler.has_room(new.waiting_tokens):
            full = self.scheduler.waiting_count == self.limits.max_queued_requests
            assert full or self.scheduler.waiting_tokens + new.waiting_tokens > self.limits.max_queued_tokens
            return
        self.scheduler.add(new)
        self.arrived.append(new)
        self.unstarted[new] = new.samples

    @rule(prompts=st.lists(st.integers(1, 4), min_size=2, max_size=6))
    def flood(self, prompts: list[int]) -> None:
        for prompt in prompts:
            self.add(prompt, 2, 1, 30)

    @precondition(lambda self: self.unstarted or self.left)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.drop(data.draw(st.sampled_from([*self.unstarted, *(run.job for run in self.left)])))

    @rule(seconds=st.integers(1, 20))
    def wait(self, seconds: int) -> None:
        self.outlast(self.now_s + seconds)

    @precondition(lambda self: self.unstarted)
    @rule()
    def wait_for_the_first(self) -> None:
        self.outlast(next(one.deadline_s for one in self.arrived if one in self.unstarted))

    def outlast(self, now_s: float) -> None:
        self.now_s = max(self.now_s, now_s)
        late = self.scheduler.late(self.now_s)
        untouched = [one for one in self.arrived if self.unstarted.get(one) == one.samples]
        assert late == [one for one in untouched if one.deadline_s <= self.now_s]
        for one in late:
            self.drop(one)

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        shares = self.run_step()
        ripe = [share.run for share in shares if share.run.decodes]
        for run in data.draw(st.lists(st.sampled_from(ripe), unique=True)) if ripe else []:
            if run in self.left:  # it met an end token
                self.end(run)

    def run_step(self) -> list[Share[Job]]:
        before = self.scheduler.running
        held = {run: (run.sequence, run.ran_tokens) for run in before}
        step = self.scheduler.plan()
        assert step.lost == []
        self.check_moves({run: ran for run, (sequence, ran) in held.items() if run.sequence is not sequence})
        decoding = [run for run in before if run.decodes]
        prompts = [run for run in before if not run.decodes]
        shares, tokens = step.shares, sum(share.tokens for share in step.shares)
        runs = [share.run for share in shares]
        assert runs[: len(decoding)] == decoding, "those who decode are all there, before anybody else"
        assert all(share.tokens == 1 for share in shares[: len(decoding)])
        assert len(set(runs)) == len(runs)
        assert tokens <= self.limits.max_step_tokens
        assert all(1 <= share.tokens <= self.limits.prefill_chunk_tokens for share in shares[len(decoding) :])
        if prompts:
            assert runs[len(decoding)] is prompts[0], "the oldest prompt moves"
        unread = [run for run in self.scheduler.running if not run.decodes]
        assert runs[len(decoding) :] == unread[: len(runs) - len(decoding)], "prompts move in the order of their start"
        for run in self.scheduler.running[len(before) :]:
            self.start(run)
        self.check_nobody_could_start(tokens)
        for share in shares:
            before, after = share.run.ran_tokens, share.run.ran_tokens + share.tokens
            assert not before < share.run.sequence.border < after, "a share crosses its border"
            self.scheduler.ran(share)
            self.left[share.run] -= share.tokens
            if not self.left[share.run]:
                self.end(share.run)
        return shares

    def check_moves(self, moved: dict[Run[Job], int]) -> None:
        assert len(moved) <= 1, "a step moves one run at most to another size"
        for run, ran_tokens in moved.items():
            assert run.job.is_resizable
            assert run.variant in run.job.variants
            assert len(run.sequence) == pages_of(run.variant, run.job.sequence_tokens)
            assert run.given_tokens == ran_tokens + 1, "all that it had is still to be known"
            assert run.ran_tokens == run.sequence.length
            self.left[run] = run.job.sequence_tokens - run.ran_tokens

    def start(self, run: Run[Job]) -> None:
        queue = [one for one in self.arrived if self.unstarted.get(one)]
        assert run.job is queue[0], "nobody overtakes"
        assert run.sample == run.job.samples - self.unstarted[run.job]
        assert len(run.sequence) == pages_of(run.variant, run.job.sequence_tokens)
        assert run.variant == run.sequence.variant
        assert run.variant in run.job.variants
        if run.sample:
            assert run.variant == self.runs_of(run.job)[0].variant, "the answers to a request are of one size"
        self.runs_of(run.job)[run.sample] = run
        assert run.ran_tokens == run.sequence.length, "what is known is not run"
        self.left[run] = run.job.prompt_tokens + run.job.max_tokens - 1 - run.ran_tokens
        self.unstarted[run.job] -= 1
        if not self.unstarted[run.job]:
            del self.unstarted[run.job]

    def runs_of(self, one: Job) -> dict[int, Run[Job]]:
        assert isinstance(one, SomeJob)
        return one.runs

    def check_nobody_could_start(self, tokens: int) -> None:
        queue = [one for one in self.arrived if self.unstarted.get(one)]
        if not queue:
            return
        needed = pages_of(queue[0].variants[0], queue[0].sequence_tokens)
        assert (
            len(self.scheduler.running) == self.limits.max_running_requests
            or tokens == self.limits.max_step_tokens
            or needed > self.pool.free
        )

    def end(self, run: Run[Job]) -> None:
        self.scheduler.finish(run)
        del self.left[run]

    def drop(self, one: Job) -> None:
        self.scheduler.drop(one)
        self.arrived.remove(one)
        self.unstarted.pop(one, None)
        for run in [run for run in self.left if run.job is one]:
            del self.left[run]

    @invariant()
    def every_page_has_one_owner_who_runs(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        held = [run.sequence for run in self.scheduler.running]
        assert len(self.scheduler.running) <= self.limits.max_running_requests
        assert set(self.scheduler.running) == set(self.left)
        assert self.pool.free + sum(map(len, held)) == len(self.pool.owners)
        assert {id(owner) for owner in self.pool.owners if owner is not None} == {id(sequence) for sequence in held}

    @invariant()
    def the_queue_is_within_its_limits(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        untouched = [one for one in self.arrived if self.unstarted.get(one) == one.samples]
        assert self.scheduler.waiting == untouched
        assert self.scheduler.waiting_count == len(untouched) <= self.limits.max_queued_requests
        tokens = sum(count * one.sequence_tokens for one, count in self.unstarted.items())
        assert self.scheduler.waiting_tokens == tokens <= self.limits.max_queued_tokens
        assert self.scheduler.is_idle == (not self.unstarted and not self.left)

    def teardown(self) -> None:
        """Whatever is there comes to its end, in no more steps than it has tokens."""
        if not hasattr(self, "scheduler"):
            return
        bound = sum(self.left.values()) + sum(n * one.sequence_tokens for one, n in self.unstarted.items())
        for _ in range(4 * bound):  # what is run again on another size included
            if self.scheduler.is_idle:
                break
            self.run_step()
        assert self.scheduler.is_idle
        assert self.scheduler.plan().shares == []
        assert self.pool.free == len(self.pool.owners)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "examples", [60, pytest.param(500, marks=pytest.mark.fault), pytest.param(10_000, marks=pytest.mark.nightly)]
)
def test_any_order_of_events_keeps_every_promise(examples: int):
    run_state_machine_as_test(SchedulerMachine, settings=settings(max_examples=examples, stateful_step_count=50))


class Leaks(Scheduler[Job]):
    def finish(self, run: Run[Job]) -> None:
        self._running.remove(run)


class ReleasesTwice(Scheduler[Job]):
    def finish(self, run: Run[Job]) -> None:
        super().finish(run)
        self._pages.release(run.sequence)


class LetsTheLastOvertake(Scheduler[Job]):
    def _start(self, step: Step[Job]) -> Run[Job] | None:
        self._queue.rotate(1)
        return super()._start(step)


class ForgetsTheStepLimit(Scheduler[Job]):
    def _chunk(self, run: Run[Job], budget: int) -> Share[Job]:
        return super()._chunk(run, budget + 1)


class ForgetsTheQueueLimit(Scheduler[Job]):
    def has_room(self, tokens: int) -> bool:
        return self._queued_tokens + tokens <= self._limits.max_queued_tokens


class KeepsTokensOfTheDropped(Scheduler[Job]):
    def drop_waiting(self, job: Job) -> None:
        if job in self._queue:
            self._queue.remove(job)


class SetsOneAside(Scheduler[Job]):
    def plan(self) -> Step[Job]:
        step = super().plan()
        if len(step.shares) > 2 and step.shares[1].run.decodes:
            del step.shares[1]
        return step


class StartsNobodyWhileSomeRun(Scheduler[Job]):
    def _start(self, step: Step[Job]) -> Run[Job] | None:
        return None if self._running else super()._start(step)


class CallsTheStartedLate(Scheduler[Job]):
    def late(self, now_s: float) -> list[Job]:
        return [one for one in self._queue if one.deadline_s <= now_s]


BUGS = (
    *(Leaks, ReleasesTwice, LetsTheLastOvertake, ForgetsTheStepLimit, ForgetsTheQueueLimit),
    *(KeepsTokensOfTheDropped, SetsOneAside, StartsNobodyWhileSomeRun, CallsTheStartedLate),
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_each_promise_is_seen_to_be_broken(bug: type[Scheduler[Job]]):
    class Planted(SchedulerMachine):
        scheduler_class = bug

    found_soon = settings(
        max_examples=3000,  # ends with the first that finds it: most are found within ten
        stateful_step_count=50,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
    )
    with pytest.raises((AssertionError, KeyError)):  # the second where what comes after a broken promise goes wrong too
        run_state_machine_as_test(Planted, settings=found_soon)


def scheduler(pool: Pool | None = None, **given: int) -> Scheduler[Job]:
    return Scheduler(limits(**given), pool or Pool(1000))


def step(one: Scheduler[Any]) -> list[tuple[int, int]]:
    """Run a step: which runs, by their place among the running, moved by how many tokens."""
    shares = one.plan().shares
    running = one.running
    for share in shares:
        one.ran(share)
    return [(running.index(share.run), share.tokens) for share in shares]


def test_a_long_prompt_does_not_hold_up_those_who_decode():
    one = scheduler(max_step_tokens=16, prefill_chunk_tokens=16)
    for _ in range(3):
        one.add(job(2, 50))
    assert step(one) == [(0, 2), (1, 2), (2, 2)]
    one.add(job(1000, 4))
    for _ in range(40):
        assert step(one) == [(0, 1), (1, 1), (2, 1), (3, 13)]


def test_a_short_prompt_behind_a_long_one_gets_what_the_chunk_leaves():
    one = scheduler(max_step_tokens=24, prefill_chunk_tokens=16)
    one.add(job(100, 4))
    one.add(job(6, 4))
    assert step(one) == [(0, 16), (1, 6)]
    assert step(one) == [(1, 1), (0, 16)]


def test_who_needs_many_pages_is_not_overtaken_by_who_needs_few():
    pool = Pool(10)
    one = scheduler(pool)
    one.add(first := job(20, 13))  # 8 pages
    step(one)
    one.add(job(20, 1))  # 5 pages
    one.add(job(1, 1))  # 1 page, which is free
    for _ in range(5):
        assert {run.job for run in one.running} == {first}
        step(one)
    one.drop(first)
    assert step(one) == [(0, 16), (1, 1)]


def test_the_answers_to_one_request_start_as_there_are_slots_and_let_nobody_between():
    one = scheduler(max_running_requests=2)
    one.add(several := job(1, 2, samples=3))
    one.add(after := job(1, 1))
    assert (one.waiting_count, len(step(one))) == (2, 2)
    assert (one.waiting, one.waiting_tokens) == ([after], several.sequence_tokens + after.sequence_tokens)
    one.finish(one.running[0])
    step(one)
    assert [(run.job, run.sample) for run in one.running] == [(several, 1), (several, 2)]


@pytest.mark.parametrize("keeps_prompts", [False, True])
def test_where_prompts_are_kept_the_other_answers_wait_until_the_first_has_run_it(keeps_prompts: bool):
    pool = Pool(100)
    pool.keeps_prompts = keeps_prompts
    one = scheduler(pool)
    one.add(job(20, 4, samples=3))
    one.add(job(2, 4))
    started = []
    while not one.is_idle and len(started) < 4:
        step(one)
        started.append(len(one.running))
        for run in [run for run in one.running if run.ran_tokens == run.job.sequence_tokens]:
            one.finish(run)
    assert started == ([1, 1, 4, 4] if keeps_prompts else [4, 4, 4, 4])


def test_answers_wait_for_no_prompt_once_those_before_have_ended():
    pool = Pool(100)
    pool.keeps_prompts = True
    one = scheduler(pool, max_running_requests=2)
    one.add(job(4, 1, samples=2))
    step(one)
    one.finish(one.running[0])
    assert (step(one), one.running[0].sample) == ([(0, 4)], 1)


@pytest.mark.parametrize("fails_at", [1, 2, 3], ids=["first answer", "second", "third"])
def test_a_request_for_which_reserving_raises_is_lost_alone(fails_at: int, caplog: pytest.LogCaptureFixture):
    caplog.set_level("CRITICAL")
    pool = Pool(100)
    one = scheduler(pool)
    one.add(running := job())
    step(one)
    one.add(unlucky := job(samples=3))
    pool.fails_at = fails_at
    lost = one.plan()
    assert (lost.lost, [share.run.job for share in lost.shares]) == ([unlucky], [running])
    assert [run.job for run in one.running] == [running]
    assert (one.waiting_tokens, pool.free) == (0, 98)
    one.add(next_one := job())
    assert [share.run.job for share in one.plan().shares] == [running, next_one]


def test_limits_are_those_settings_that_have_their_names():
    names = [field.name for field in fields(Limits)]
    given = ServiceSettings.model_validate({name: 20 + place for place, name in enumerate(names)})

    assert asdict(Limits.of(given)) == {name: getattr(given, name) for name in names}


@pytest.mark.parametrize(("beside", "ran_tokens", "moves"), [(5, 14, True), (5, 20, False), (0, 20, True)])
def test_in_a_crowd_an_answer_moves_only_while_more_of_it_is_left_than_there_is(
    beside: int, ran_tokens: int, moves: bool
):
    limits = Limits(
        max_queued_requests=64,
        max_queued_tokens=1 << 12,
        max_running_requests=beside + 1,
        max_step_tokens=64,
        prefill_chunk_tokens=64,
    )
    scheduler: Scheduler[Job] = Scheduler(limits, Pool(1000))
    moving = job(4, 30, sizes=3, is_resizable=True)
    for one in (moving, *(job(4, 60) for _ in range(beside))):
        scheduler.add(one)
    (run, *_) = run_a_step(scheduler, moving)
    while run.ran_tokens < ran_tokens:
        run_a_step(scheduler, moving)
    before = run.variant
    assert before != VARIANTS[0]
    for _ in range(2 * limits.max_running_requests):
        scheduler.add(job())
    scheduler.plan()
    assert (run.variant != before) == moves


def run_a_step(scheduler: Scheduler[Job], moving: Job) -> list[Run[Job]]:
    for share in scheduler.plan().shares:
        scheduler.ran(share)
        if share.run.job is moving and isinstance(moving, SomeJob):
            moving.runs[share.run.sample] = share.run
    return scheduler.running
