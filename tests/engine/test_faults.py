"""What happens to everybody else when one request, the model, or the machine fails."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import Gate, WatchedFamily, tiny_bank
from models import HashModel, eventually, hashed_logits, running

from anysize.engine import ledger
from anysize.engine.detokenizer import Detokenizer
from anysize.engine.engine import Engine
from anysize.engine.request import Completion, GenerationRequest, Piece, Sampling
from anysize.engine.sampler import Sampler
from anysize.errors import EngineError, OverloadedError, RequestError

POISON = 77


@cache
def family() -> WatchedFamily:
    return WatchedFamily(tiny_bank("llama", teacher_layers=4, kept=(0, 2)), endless=True)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", logger="anysize.engine")


@pytest.fixture
def model() -> Iterator[HashModel]:
    one = HashModel()
    yield one
    assert (one.free_pages, one.held) == (one.total_pages, []), "pages were left behind"


def request(first: int = 10, *, prompt_tokens: int = 3, samples: int = 1, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(
        id=f"gen-{first}",
        prompt_ids=[first] * prompt_tokens,
        size=family().ladder[first % len(family().ladder)],
        sampling=Sampling(**{"max_tokens": 4, **sampling}),
        samples=samples,
    )


def greedy(one: GenerationRequest) -> list[int]:
    answer: list[int] = []
    while len(answer) < one.sampling.max_tokens:
        answer.append(int(hashed_logits(one.size.variant, [*one.prompt_ids, *answer]).argmax()))
    return answer


@contextmanager
def held_up(model: HashModel, **given: Any) -> Iterator[tuple[Engine, Gate, Future[Completion]]]:
    """An engine of one slot, the gate that its first step stands at, and the future of who is in it."""
    model.before_step = gate = Gate()
    with running(family(), model, max_running_requests=1, **given) as engine:
        runs = engine.submit(request(3))
        gate.wait()
        try:
            yield engine, gate, runs
        finally:
            gate.open()


def poison(stage: str, model: HashModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one stage of the engine fail on the request of the poison."""

    def fails_when(is_poisoned: Any, original: Any) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            if is_poisoned(*args, **kwargs):
                raise RuntimeError("secret")
            return original(*args, **kwargs)

        return called

    if stage == "sampler made":
        made = fails_when(lambda _self, _sampling, ids, *_: POISON in ids, Sampler.__init__)
        monkeypatch.setattr(Sampler, "__init__", made)
    elif stage == "sampler picks":
        monkeypatch.setattr(Sampler, "uniform", fails_when(lambda self: self.sampling.seed == POISON, Sampler.uniform))
    elif stage == "text":
        monkeypatch.setattr(
            Detokenizer, "add", fails_when(lambda self, _token: "poison" in self._stop, Detokenizer.add)
        )
    elif stage == "end of text":
        monkeypatch.setattr(Detokenizer, "finish", fails_when(lambda self: "poison" in self._stop, Detokenizer.finish))
    elif stage == "model":
        model.before_step = fails_when(
            lambda rows: any((*row.sequence.token_ids, *row.token_ids)[0] == POISON for row in rows), lambda rows: None
        )
    else:
        assert stage == "logits"
        original = model.logits

        def logits(sequence: Any) -> torch.Tensor:
            whole = original(sequence)
            return whole.fill_(torch.nan) if sequence.token_ids[0] == POISON else whole

        monkeypatch.setattr(model, "logits", logits)


STAGES = ["sampler made", "sampler picks", "text", "end of text", "model", "logits", "listener"]


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_of_32_requests_the_one_that_is_poisoned_fails_alone(
    model: HashModel, monkeypatch: pytest.MonkeyPatch, stage: str, samples: int
):
    threads: set[int] = set()
    good = [request(first) for first in range(100, 131)]
    bad = request(POISON, temperature=1.0, seed=POISON, stop=("poison",), samples=samples)
    if stage != "listener":
        poison(stage, model, monkeypatch)

    def on_piece(_piece: Piece) -> None:
        if stage == "listener":
            raise RuntimeError("secret")

    with running(family(), model) as engine:
        futures = [engine.submit(one, lambda _: threads.add(threading.get_ident())) for one in good[:15]]
        failed = engine.submit(bad, on_piece)
        futures += [engine.submit(one, lambda _: threads.add(threading.get_ident())) for one in good[15:]]
        with pytest.raises(EngineError) as failure:
            failed.result(timeout=60)
        assert "secret" not in str(failure.value)
        assert [future.result(timeout=60).token_ids for future in futures] == [greedy(one) for one in good]
        assert engine.state().alive
    assert len(threads) == 1


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError(), RuntimeError("not enough memory: you")])
def test_too_little_memory_for_a_whole_step_costs_nobody_the_answer(model: HashModel, error: Exception):
    def fail(rows: Any) -> None:
        if len(rows) > 1:
            raise error

    model.before_step = fail
    requests = [request(first) for first in range(100, 108)]
    with running(family(), model) as engine:
        futures = [engine.submit(one) for one in requests]
        assert [future.result(timeout=60).token_ids for future in futures] == [greedy(one) for one in requests]


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9")]
)
def test_a_request_for_which_there_is_no_memory_is_told_so(model: HashModel, error: Exception):
    def fail(rows: Any) -> None:
        if any((*row.sequence.token_ids, *row.token_ids)[0] == POISON for row in rows):
            raise error

    model.before_step = fail
    with running(family(), model) as engine:
        with pytest.raises(EngineError, match="not enough memory"):
            engine.submit(request(POISON)).result(timeout=60)
        assert engine.submit(request(5)).result(timeout=60).token_ids == greedy(request(5))


@pytest.mark.parametrize("allocation", range(1, 12, 2))
def test_memory_that_runs_out_while_pages_are_reserved_fails_one_request(model: HashModel, allocation: int):
    count = iter(range(1, 1000))

    def fail() -> None:
        if next(count) == allocation:
            raise MemoryError

    model.on_reserve = fail
    requests = [request(first) for first in range(100, 112)]
    with running(family(), model) as engine:
        futures = [engine.submit(one) for one in requests]
        failed = [number for number, future in enumerate(futures) if future.exception(timeout=60) is not None]
        assert failed == [allocation - 1]
        answers = [future.result().token_ids for future in futures if future.exception() is None]
        assert answers == [greedy(one) for number, one in enumerate(requests) if number not in failed]


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("step", [1, 2, 11])
def test_a_model_that_fails_on_whatever_it_is_given_ends_everyone_and_shows(model: HashModel, step: int, slots: int):
    def fail(_rows: object) -> None:
        if model.steps >= step:
            raise RuntimeError("sticky")

    model.before_step = fail
    with running(family(), model, max_running_requests=slots) as engine:
        futures = [engine.submit(request(first, max_tokens=30)) for first in range(100, 110)]
        assert all(isinstance(future.exception(timeout=60), EngineError) for future in futures)
        eventually(lambda: not engine.state().alive)
        with pytest.raises(EngineError, match="died"):
            engine.submit(request())
        model.held.clear()  # nobody is left to give them back
        model.free_pages = model.total_pages


def test_a_request_that_fails_while_it_holds_every_page_is_no_broken_model():
    model = HashModel(pages=2)

    def fail(rows: Any) -> None:
        if any((*row.sequence.token_ids, *row.token_ids)[0] == POISON for row in rows):
            raise RuntimeError

    model.before_step = fail
    with running(family(), model) as engine:
        with pytest.raises(EngineError, match="RuntimeError"):
            engine.submit(request(POISON)).result(timeout=60)  # both pages
        assert engine.submit(request(5)).result(timeout=60).token_ids == greedy(request(5))


def test_a_step_that_fails_half_way_costs_those_it_has_moved_their_answer_and_nobody_else(model: HashModel):
    moved = 3

    def fail(rows: Any) -> None:
        nonlocal moved
        if len(rows) == 8 and moved:
            for row in rows[:moved]:
                row.sequence.token_ids += row.token_ids
            moved = 0
            raise RuntimeError

    model.before_step = fail
    requests = [request(first) for first in range(100, 108)]
    with running(family(), model) as engine:
        futures = [engine.submit(one) for one in requests]
        errors = [future.exception(timeout=60) for future in futures]
        assert ["middle of a step" in str(error) for error in errors] == [True] * 3 + [False] * 5
        assert [future.result().token_ids for future in futures[3:]] == [greedy(one) for one in requests[3:]]


def test_a_step_that_does_not_come_back_ends_everyone_and_later_ones_are_served(model: HashModel):
    gate = Gate()
    model.before_step = gate
    pieces: list[Piece] = []
    with running(family(), model, stall_s=0.1, max_running_requests=2) as engine:
        futures = [engine.submit(request(first, logprobs=0), pieces.append) for first in range(100, 106)]
        for future in futures:
            with pytest.raises(EngineError, match="stuck"):
                future.result(timeout=60)
        assert engine.state().step_age_s > 0.1
        with pytest.raises(EngineError, match="stuck"):
            engine.submit(request())
        gate.open()
        eventually(lambda: engine.state().running == 0)
        assert (model.steps, pieces) == (1, [])  # what the step gave is nobody's any more
        assert engine.submit(request(5)).result(timeout=60).token_ids == greedy(request(5))


def test_an_idle_engine_is_never_stuck(model: HashModel):
    with running(family(), model, stall_s=0.05) as engine:
        for _ in range(3):
            time.sleep(0.12)
            assert engine.state().step_age_s == 0
            assert engine.submit(request(5)).result(timeout=60)


def test_who_waits_too_long_is_told_when_to_try_again_and_holds_nobody_up(model: HashModel):
    with held_up(model, queue_timeout_s=0.1) as (engine, gate, runs):
        late = [engine.submit(request(first)) for first in (4, 5)]
        time.sleep(0.15)
        gate.open()
        for future in late:
            with pytest.raises(OverloadedError, match=r"0\.1 s") as refusal:
                future.result(timeout=60)
            assert refusal.value.retry_after_s >= 1
        assert runs.result(timeout=60).token_ids == greedy(request(3))  # its turn had come
        assert engine.submit(request(6)).result(timeout=60).token_ids == greedy(request(6))


def test_who_is_refused_is_told_of_as_many_turns_as_others_have_before(
    model: HashModel, monkeypatch: pytest.MonkeyPatch
):
    began_s = time.monotonic()
    fast = SimpleNamespace(monotonic=lambda: began_s + 1000 * (time.monotonic() - began_s))
    monkeypatch.setattr(ledger, "time", fast)
    with held_up(model, max_queued_requests=2) as (engine, gate, runs):
        for first in (4, 5):
            engine.submit(request(first))
        time.sleep(0.02)  # 20 s by the engine's clock
        for _ in range(4):
            gate.let()
            gate.wait()
        assert runs.done()
        engine.submit(request(6))  # the second who waits, beside one who runs
        with pytest.raises(OverloadedError) as refusal:
            engine.check_room()
        assert refusal.value.retry_after_s >= 2 * 20


def test_a_future_that_is_cancelled_while_its_step_is_planned_harms_nobody(model: HashModel):
    with held_up(model) as (engine, gate, runs):
        left = engine.submit(request(2))

        def leave() -> None:
            left.cancel()

        model.on_reserve = leave
        gate.open()
        assert runs.result(timeout=60).token_ids == greedy(request(3))
        assert engine.submit(request(5)).result(timeout=60).token_ids == greedy(request(5))
        assert left.cancelled()
        assert model.steps == 4 + 4  # none of them for who has left


def test_a_full_queue_is_known_before_there_is_a_request(model: HashModel):
    with held_up(model, max_queued_requests=1) as (engine, _, _):
        engine.check_room()
        waits = request(2)
        engine.submit(waits)
        with pytest.raises(OverloadedError):
            engine.check_room()
        waits.cancelled.set()
        engine.check_room()  # who has left keeps nobody out


def test_tokens_that_wait_are_bounded_too(model: HashModel):
    with held_up(model, max_queued_tokens=60) as (engine, gate, _):
        first = engine.submit(request(2, prompt_tokens=20, max_tokens=21))  # 40 tokens
        with pytest.raises(OverloadedError, match="40 tokens"):
            engine.submit(request(3, prompt_tokens=20, max_tokens=2))
        second = engine.submit(request(4, prompt_tokens=10, samples=2, max_tokens=1))
        gate.open()
        assert first.result(timeout=60)
        assert len(second.result(timeout=60).choices) == 2
        assert engine.submit(request(5, prompt_tokens=60, max_tokens=1)).result(timeout=60)
        with pytest.raises(RequestError, match="61 tokens, more than the 60"):
            engine.submit(request(5, prompt_tokens=60, max_tokens=2))


def test_what_could_never_have_its_pages_is_refused_at_once():
    model = HashModel(pages=5)
    with running(family(), model) as engine:
        assert engine.submit(request(1, prompt_tokens=17)).result(timeout=60)
        with pytest.raises(RequestError, match="21 tokens"):
            engine.submit(request(1, prompt_tokens=18))


def test_pages_bound_what_runs_side_by_side_and_everybody_is_answered():
    model = HashModel(pages=6)
    most = 0

    def count(rows: Any) -> None:
        nonlocal most
        most = max(most, len(rows))

    model.before_step = count
    requests = [request(first, prompt_tokens=5) for first in range(100, 120)]  # two pages each
    with running(family(), model) as engine:
        futures = [engine.submit(one) for one in requests]
        assert [future.result(timeout=60).token_ids for future in futures] == [greedy(one) for one in requests]
    assert most == 3


@pytest.mark.parametrize("prompt_tokens", [1, 40])
def test_one_of_several_answers_that_is_cancelled_cancels_the_request(model: HashModel, prompt_tokens: int):
    gate = Gate()
    model.before_step = gate
    several = request(9, prompt_tokens=prompt_tokens, samples=3, max_tokens=30)
    with running(family(), model, max_running_requests=2) as engine:
        future = engine.submit(several)
        for _ in range(2):
            gate.wait()
            gate.let()
        gate.wait()
        steps = model.steps
        several.cancelled.set()
        gate.open()
        completion = future.result(timeout=60)
        assert model.steps <= steps + 2
        assert completion.finish_reason == "cancelled"
        assert [choice.finish_reason for choice in completion.choices] == ["cancelled"] * 3


def test_all_answers_to_a_request_come_together_and_count_together(model: HashModel):
    several = request(9, samples=3, max_tokens=5, temperature=1.0, seed=4)
    alone = [request(9, max_tokens=5, temperature=1.0, seed=4 + sample) for sample in range(3)]
    with running(family(), model, max_running_requests=2) as engine:
        completion = engine.submit(several).result(timeout=60)
        assert [choice.token_ids for choice in completion.choices] == [
            engine.submit(one).result(timeout=60).token_ids for one in alone
        ]
    assert completion.completion_tokens == 15
    timing = completion.timing
    assert timing.tpot_ms is not None
    assert 0 <= timing.queue_ms <= timing.ttft_ms <= timing.total_ms
