"""Clients that leave, too many clients at once, and a service that stops."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest
from fakes import Gate, long_winded_family
from models import eventually
from serving import RunningService, http_request, silence

from anysize.api.leaving import cancelled_on_disconnect
from anysize.engine.request import GenerationRequest, Sampling
from anysize.engine.sequence import Row

ASK = http_request(b'{"prompt": "abc", "max_tokens": 200}', "Content-Length: 36")
LONG_PROMPT = b'{"prompt": "' + b"x" * 150 + b'", "max_tokens": 50}'


def held_up(service: RunningService) -> Gate:
    """The model waits for one permit a step."""
    gate = Gate()
    service.family.before_step = gate
    return gate


@pytest.fixture
def submitted(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> list[GenerationRequest]:
    """What reaches the engine."""
    requests: list[GenerationRequest] = []
    submit = service.state.engine.submit
    monkeypatch.setattr(
        service.state.engine, "submit", lambda one, *stream: (requests.append(one), submit(one, *stream))[1]
    )
    return requests


def idle(service: RunningService) -> bool:
    state = service.state.engine.state()
    return (state.waiting, state.running) == (0, 0)


def finished(service: RunningService, reason: str) -> float:
    registry = service.state.metrics.registry
    labels = {"variant": "teacher", "finished_reason": reason}
    return registry.get_sample_value("anysize_request_success_total", labels) or 0.0


@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.fault)])
def test_a_client_that_leaves_in_mid_answer_stops_its_generation(
    service: RunningService, submitted: list[GenerationRequest], times: int
):
    for number in range(times):
        gate = held_up(service)
        with service.raw() as connection:
            connection.sendall(ASK)
            for _ in range(4):
                gate.wait()
                gate.let()
            gate.wait()
        # Steps go on one by one until the service has seen it; then there is at most the one that had begun.
        eventually(submitted[number].cancelled.is_set)
        steps = service.family.steps
        gate.open()
        eventually(lambda: idle(service))
        assert service.family.steps - steps <= 2
        eventually(lambda number=number: finished(service, "cancelled") == number + 1)
    assert service.generate(prompt="next", max_tokens=2).status_code == 200


def test_a_client_that_leaves_during_the_prompt_stops_it(service: RunningService, submitted: list[GenerationRequest]):
    gate = held_up(service)
    with service.raw() as connection:
        connection.sendall(http_request(LONG_PROMPT, f"Content-Length: {len(LONG_PROMPT)}"))
        gate.wait()
    eventually(submitted[0].cancelled.is_set)
    gate.open()
    eventually(lambda: idle(service))
    assert service.family.steps <= 2  # of ten for the prompt


def test_a_client_that_leaves_the_queue_costs_no_step(service: RunningService, submitted: list[GenerationRequest]):
    gate = held_up(service)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.generate, prompt="abc", max_tokens=1)
        gate.wait()
        with service.raw() as connection:
            connection.sendall(ASK)
            eventually(lambda: service.state.engine.state().waiting == 1)
        eventually(submitted[1].cancelled.is_set)
        gate.open()
        assert first.result().status_code == 200
    eventually(lambda: idle(service))
    assert service.family.steps == 1


def test_many_clients_that_leave_leave_nothing_behind(service: RunningService):
    gate = held_up(service)
    for _ in range(12):  # more than the queue holds
        with service.raw() as connection:
            connection.sendall(ASK)
            # A full queue of clients that left has room for the next one.
            eventually(lambda: service.state.engine.state().waiting + service.state.engine.state().running > 0)
    gate.open()
    eventually(lambda: idle(service))
    assert service.generate(prompt="abc", max_tokens=2).status_code == 200


def test_a_client_that_leaves_before_its_body_is_whole_is_no_request(service: RunningService):
    with service.raw() as connection:
        connection.sendall(ASK[:-10])
    with service.raw() as connection:
        connection.sendall(ASK[:60])
    assert service.generate(prompt="abc", max_tokens=2).status_code == 200
    assert service.family.steps == 2


def test_a_second_request_on_a_kept_connection_is_served(service: RunningService):
    with service.client() as client:
        for _ in range(3):
            assert client.post("/generate", json={"prompt": "abc", "max_tokens": 3}).status_code == 200
    assert finished(service, "cancelled") == 0


def test_a_full_queue_is_a_429_that_says_when_to_try_again(service: RunningService):
    gate = held_up(service)
    with ThreadPoolExecutor(3) as pool:
        asked = []
        for _ in range(3):
            asked.append(pool.submit(service.generate, prompt="abc", max_tokens=2))
            if len(asked) == 1:
                gate.wait()
        eventually(lambda: service.state.engine.state().waiting == 2)

        refused = service.generate(prompt="abc", max_tokens=2)

        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "overloaded"
        assert 1 <= int(refused.headers["retry-after"]) <= 600
        gate.open()
        assert [one.result().status_code for one in asked] == [200, 200, 200]
    assert service.generate(prompt="abc", max_tokens=2).status_code == 200


def test_the_service_answers_others_while_the_model_is_in_a_step(service: RunningService):
    gate = held_up(service)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(service.generate, prompt="abc", max_tokens=3)
        gate.wait()
        with service.client() as client:
            for path in ("/health", "/ready", "/variants", "/metrics", "/openapi.json"):
                assert client.get(path).status_code == 200
            assert client.get("/health").json()["running"] == 1
            assert client.post("/generate", json={"prompt": "a", "top_k": -1}).status_code == 422
        assert not long.done()
        gate.open()
        assert long.result().status_code == 200


def test_a_request_on_which_the_model_fails_is_a_503_and_the_next_is_served(
    service: RunningService, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("CRITICAL", logger="anysize.engine")
    threads: set[int] = set()

    def fail(rows: Sequence[Row]) -> None:
        threads.add(threading.get_ident())
        if any(row.sequence.length == 5 for row in rows):  # its third step, however often that is tried
            raise RuntimeError("secret")

    service.family.before_step = fail
    failed = service.generate(prompt="abc", max_tokens=9)
    assert (failed.status_code, failed.json()["error"]["type"]) == (503, "engine_unavailable")
    assert "secret" not in failed.text
    assert service.generate(prompt="abc", max_tokens=2).status_code == 200
    assert len(threads) == 1


def test_stopping_the_engine_answers_those_who_wait_with_an_error(service: RunningService):
    gate = held_up(service)
    with ThreadPoolExecutor(2) as pool:
        asked: list[Future[httpx.Response]] = [
            pool.submit(service.generate, prompt="abc", max_tokens=50) for _ in range(2)
        ]
        gate.wait()
        eventually(lambda: service.state.engine.state().waiting == 1)
        stopping = threading.Thread(target=service.state.engine.stop, kwargs={"within_s": 0.1})
        stopping.start()
        for one in asked:
            assert one.result().status_code == 503
            assert one.result().json()["error"]["type"] == "engine_unavailable"
        gate.open()
        stopping.join()


@pytest.mark.parametrize(
    ("ended_by", "is_cancelled"), [(None, False), (RuntimeError("x"), True), (asyncio.CancelledError(), True)], ids=repr
)
def test_whatever_ends_a_handler_early_cancels_its_request(ended_by: BaseException | None, is_cancelled: bool):
    family = long_winded_family()
    request = GenerationRequest(id="x", prompt_ids=[9], size=family.teacher, sampling=Sampling(max_tokens=1))

    async def handler() -> None:
        async with cancelled_on_disconnect(silence, request):
            if ended_by is not None:
                raise ended_by

    with suppress(RuntimeError, asyncio.CancelledError):
        asyncio.run(handler())
    assert request.cancelled.is_set() == is_cancelled
