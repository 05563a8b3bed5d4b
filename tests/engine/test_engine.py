"""The queue and the thread behind it."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from functools import cache
from typing import Any

import pytest
from fakes import Gate, WatchedFamily, tiny_bank
from models import WatchedModel, eventually, greedy, limits

from anysize.engine.engine import Engine, StepReport
from anysize.engine.request import Completion, GenerationRequest, Sampling
from anysize.engine.sequence import Row
from anysize.errors import EngineError, OverloadedError
from anysize.family.bank import Bank


@cache
def bank() -> Bank:
    return tiny_bank("llama", teacher_layers=4, kept=(0, 2))


@pytest.fixture
def family() -> WatchedFamily:
    return WatchedFamily(bank(), endless=True)


@pytest.fixture
def start(family: WatchedFamily) -> Iterator[Callable[..., Engine]]:
    """Starts engines, and stops them at the end."""
    engines: list[Engine] = []

    def started(max_running_requests: int = 1, **given: int) -> Engine:
        bounds = limits(max_running_requests=max_running_requests, prefill_chunk_tokens=8, **given)
        engine = Engine(family, WatchedModel(family), bounds)
        engine.start()
        engines.append(engine)
        return engine

    yield started
    family.before_step = lambda rows: None
    for engine in engines:
        engine.stop(within_s=10)
        assert not engine.state().alive


def request(family: WatchedFamily, text: str = "abc", *, size: int = -1, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(
        id=f"gen-{text}",
        prompt_ids=family.tokenizer(text).input_ids,
        size=family.ladder[size],
        sampling=Sampling(**{"max_tokens": 3, **sampling}),
    )


def test_requests_of_any_size_get_what_each_gets_alone(family: WatchedFamily, start: Callable[..., Engine]):
    requests = [request(family, f"prompt {n}", size=n % len(family.ladder)) for n in range(8)]
    wanted = [greedy(family, one) for one in requests]
    engine = start(max_running_requests=5)
    futures = [engine.submit(one) for one in requests]
    assert [future.result(timeout=30).token_ids for future in futures] == wanted


def test_requests_are_answered_in_the_order_they_came(family: WatchedFamily, start: Callable[..., Engine]):
    gate = Gate()
    family.before_step = gate
    engine = start()
    done: list[int] = []
    futures = [engine.submit(request(family, str(n))) for n in range(6)]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: done.append(number))
    gate.open()
    wait(futures, timeout=30)
    assert done == [0, 1, 2, 3, 4, 5]


def test_a_full_queue_refuses_one_more_and_says_when_to_try_again(family: WatchedFamily, start: Callable[..., Engine]):
    gate = Gate()
    family.before_step = gate
    engine = start(max_queued_requests=2)
    running = engine.submit(request(family))
    gate.wait()
    waiting = [engine.submit(request(family)) for _ in range(2)]

    with pytest.raises(OverloadedError) as refusal:
        engine.submit(request(family))

    assert 1 <= refusal.value.retry_after_s <= 600
    assert isinstance(refusal.value.retry_after_s, int)
    gate.open()
    assert all(future.result(timeout=30).finish_reason != "cancelled" for future in (running, *waiting))
    assert engine.submit(request(family)).result(timeout=30)


@pytest.mark.parametrize("how", ["event", "future"])
def test_those_who_left_the_queue_make_room_for_others(family: WatchedFamily, start: Callable[..., Engine], how: str):
    gate = Gate()
    family.before_step = gate
    engine = start(max_queued_requests=2)
    engine.submit(request(family))
    gate.wait()
    left, stays = request(family, "left"), request(family, "stays")
    left_future, stays_future = engine.submit(left), engine.submit(stays)
    if how == "event":
        left.cancelled.set()
    else:
        assert left_future.cancel()

    newcomer = engine.submit(request(family, "new"))

    assert left_future.done()
    if how == "event":
        assert left_future.result().finish_reason == "cancelled"
    assert engine.state().waiting == 2
    gate.open()
    assert stays_future.result(timeout=30).finish_reason == newcomer.result(timeout=30).finish_reason == "length"


def test_a_request_cancelled_in_the_queue_never_reaches_the_model(family: WatchedFamily, start: Callable[..., Engine]):
    gate = Gate()
    family.before_step = gate
    engine = start()
    first = engine.submit(request(family, max_tokens=1))
    gate.wait()
    one = request(family)
    future = engine.submit(one)
    one.cancelled.set()
    gate.open()
    completion = future.result(timeout=30)
    assert first.result().finish_reason == "length"
    assert (completion.finish_reason, completion.text, completion.token_ids) == ("cancelled", "", [])
    assert 0 <= completion.timing.queue_ms <= completion.timing.ttft_ms <= completion.timing.total_ms
    assert family.steps == 1


@pytest.mark.parametrize("prompt_tokens", [3, 40], ids=["decode", "prefill"])
def test_a_running_request_stops_within_two_steps(
    family: WatchedFamily, start: Callable[..., Engine], prompt_tokens: int
):
    gate = Gate()
    family.before_step = gate
    engine = start()
    one = request(family, "x" * prompt_tokens, max_tokens=100)
    future = engine.submit(one)
    for _ in range(3):
        gate.wait()
        gate.let()
    gate.wait()
    one.cancelled.set()
    gate.open()
    assert future.result(timeout=30).finish_reason == "cancelled"
    assert family.steps <= 4 + 2


def test_a_future_that_is_cancelled_while_its_request_runs_harms_nobody(
    family: WatchedFamily, start: Callable[..., Engine]
):
    gate = Gate()
    family.before_step = gate
    engine = start()
    future = engine.submit(request(family))
    gate.wait()
    assert not future.cancel()  # it runs: what ends it is the event
    gate.open()
    assert future.result(timeout=30)
    assert engine.submit(request(family)).result(timeout=30)


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("max_running_requests", [1, 8])
def test_a_request_on_which_the_model_fails_fails_alone(
    family: WatchedFamily,
    start: Callable[..., Engine],
    step: int,
    max_running_requests: int,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.CRITICAL, logger="anysize.engine")
    poisoned = request(family, "zzz", max_tokens=5)
    good = [request(family, f"good {n}", size=n % len(family.ladder)) for n in range(6)]
    wanted = [greedy(family, one) for one in good]
    threads: set[int] = set()
    bad_sequences: list[object] = []

    def fail(rows: Sequence[Row]) -> None:
        threads.add(threading.get_ident())
        bad_sequences.extend(row.sequence for row in rows if list(row.token_ids) == poisoned.prompt_ids)
        for row in rows:
            if row.sequence in bad_sequences and row.sequence.length == (0, 3, 4)[step - 1]:
                raise RuntimeError("secret text of the model")

    family.before_step = fail
    engine = start(max_running_requests)
    before = [engine.submit(one) for one in good[:3]]
    bad = engine.submit(poisoned)
    after = [engine.submit(one) for one in good[3:]]

    with pytest.raises(EngineError, match="RuntimeError") as failure:
        bad.result(timeout=30)
    assert "secret" not in str(failure.value)
    assert [future.result(timeout=30).token_ids for future in (*before, *after)] == wanted
    assert len(threads) == 1
    assert engine.state().alive


def test_state_counts_what_waits_and_what_runs(family: WatchedFamily, start: Callable[..., Engine]):
    gate = Gate()
    family.before_step = gate
    engine = start()
    idle = engine.state()
    assert (idle.waiting, idle.running, idle.alive, idle.step_age_s, idle.draining) == (0, 0, True, 0.0, False)

    futures = [engine.submit(request(family, max_tokens=1)) for _ in range(3)]
    gate.wait()
    for waiting in (2, 1, 0):
        time.sleep(0.01)
        state = engine.state()  # answers while the model's thread is held up in a step
        assert (state.waiting, state.running) == (waiting, 1)
        assert state.step_age_s >= 0.01
        gate.let()
        futures[2 - waiting].result(timeout=30)
        if waiting:
            gate.wait()
    assert (engine.state().running, engine.state().step_age_s) == (0, 0.0)


def test_the_age_of_a_step_counts_neither_idle_time_nor_the_steps_before(
    family: WatchedFamily, start: Callable[..., Engine]
):
    gate = Gate()
    family.before_step = gate
    engine = start()
    time.sleep(0.02)
    began_s = time.monotonic()
    future = engine.submit(request(family, max_tokens=3))
    for _ in range(3):
        gate.wait()
        assert engine.state().step_age_s <= time.monotonic() - began_s
        time.sleep(0.02)
        began_s = time.monotonic()
        gate.let()
    assert future.result(timeout=30)


def test_an_engine_that_has_not_started_is_not_alive(family: WatchedFamily):
    assert not Engine(family, WatchedModel(family), limits()).state().alive


def test_a_request_is_no_longer_counted_once_its_answer_is_there(family: WatchedFamily, start: Callable[..., Engine]):
    engine = start()
    for _ in range(20):
        seen: list[int] = []
        future = engine.submit(request(family, max_tokens=1))
        future.add_done_callback(lambda _, seen=seen: seen.append(engine.state().running))
        future.result(timeout=30)
        eventually(lambda seen=seen: bool(seen))
        assert seen == [0]


def test_drain_answers_what_is_there_and_refuses_what_comes(family: WatchedFamily, start: Callable[..., Engine]):
    gate = Gate()
    family.before_step = gate
    engine = start()
    futures = [engine.submit(request(family)) for _ in range(3)]
    gate.wait()
    engine.drain()
    with pytest.raises(EngineError, match="stopping"):
        engine.submit(request(family))
    assert engine.state().draining
    gate.open()
    assert {future.result(timeout=30).finish_reason for future in futures} == {"length"}
    eventually(lambda: not engine.state().alive)


def test_stop_waits_for_what_is_there(family: WatchedFamily, start: Callable[..., Engine]):
    engine = start()
    futures = [engine.submit(request(family)) for _ in range(4)]
    engine.stop(within_s=30)
    assert all(future.done() for future in futures)
    assert {future.result().finish_reason for future in futures} == {"length"}
    assert not engine.state().alive
    engine.stop(within_s=30)  # a second time is no error


def test_stop_ends_what_is_left_with_an_error_at_its_limit(family: WatchedFamily, start: Callable[..., Engine]):
    gate = Gate()
    family.before_step = gate
    engine = start()
    running, *waiting = [engine.submit(request(family)) for _ in range(3)]
    left = engine.submit(request(family))
    left.cancel()
    gate.wait()

    stopping = threading.Thread(target=engine.stop, kwargs={"within_s": 0.2})
    stopping.start()
    for future in (running, *waiting):
        with pytest.raises(EngineError, match="stopped before"):
            future.result(timeout=30)
    with pytest.raises(CancelledError):
        left.result(timeout=30)

    # The step that the model was in ends later, and is nobody's any more.
    gate.open()
    stopping.join(timeout=30)
    assert not engine.state().alive
    assert (engine.state().waiting, engine.state().running) == (0, 0)
    assert family.steps == 1


@pytest.mark.parametrize("seed", range(3))
def test_every_future_ends_exactly_once_in_a_storm(family: WatchedFamily, start: Callable[..., Engine], seed: int):
    chance = random.Random(seed)
    engine = start(max_running_requests=4, max_queued_requests=10)
    ended: list[Future[Completion]] = []
    submitted: list[tuple[GenerationRequest, Future[Completion]]] = []
    refused = 0

    def cancel(victim: tuple[GenerationRequest, Future[Completion]]) -> None:
        one, future = victim
        one.cancelled.set()
        if chance.random() < 0.5:
            future.cancel()

    for number in range(120):
        one = request(family, f"{number}", size=number % len(family.ladder), max_tokens=chance.randint(1, 4))
        try:
            future = engine.submit(one)
        except OverloadedError:
            refused += 1
            time.sleep(0.01)
            continue
        future.add_done_callback(ended.append)
        submitted.append((one, future))
        if chance.random() < 0.4:
            cancel(chance.choice(submitted[-12:]))
        if chance.random() < 0.5:
            time.sleep(chance.random() * 0.02)
    engine.stop(within_s=60)

    assert len(submitted) + refused == 120
    assert len(ended) == len(submitted)
    assert set(ended) == {future for _, future in submitted}
    for one, future in submitted:
        if future.cancelled():
            continue
        completion = future.result()
        if not one.cancelled.is_set():
            assert completion.finish_reason != "cancelled"
            assert completion.token_ids == greedy(family, one)
    assert (engine.state().waiting, engine.state().running) == (0, 0)


def test_cancelling_a_future_just_as_it_ends_does_not_end_the_thread(
    family: WatchedFamily, start: Callable[..., Engine]
):
    """What happens when a server cancels its handler in the moment the answer comes."""
    engine = start()
    for _ in range(60):
        future = engine.submit(request(family, max_tokens=1))
        while not future.done() and not future.cancel():
            pass
    assert engine.submit(request(family)).result(timeout=30)
    assert engine.state().alive


def test_what_goes_on_between_two_steps_counts_to_the_second(family: WatchedFamily):
    reports: list[StepReport] = []

    def learn(report: StepReport) -> None:
        reports.append(report)
        time.sleep(0.05)

    engine = Engine(family, WatchedModel(family), limits(max_running_requests=1), on_step=learn)
    engine.start()
    engine.submit(request(family)).result(timeout=20)
    engine.stop(within_s=10)

    assert len(reports) >= 3
    for report in reports[1:]:
        assert report.whole_s >= report.duration_s + 0.05
