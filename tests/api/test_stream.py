"""`POST /generate` with `"stream": true`: server-sent events over a real connection."""

import asyncio
import json
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fakes import Gate, long_winded_family
from models import HashModel, WatchedModel, eventually, running
from serving import RunningService, http_request, serving, silence
from starlette.types import Message
from torch import Tensor

from anysize.api.answer import TokenTexts
from anysize.api.answering import Prepared
from anysize.api.events import EventStream
from anysize.api.generate import GenerateEvents
from anysize.engine.engine import Engine
from anysize.engine.model import Model
from anysize.engine.request import Choice, Completion, GenerationRequest, Piece, Sampling, Timing
from anysize.engine.sequence import Row
from anysize.engine.stream import TextStream
from anysize.engine.ticket import OnPiece

PROMPT = "The sea is"
Event = tuple[str, dict[str, Any]]


def read(response: httpx.Response) -> Iterator[Event]:
    """The events of a stream, as a client that knows the format reads them."""
    name = ""
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)
        else:
            assert line == ""


@contextmanager
def streaming(service: RunningService, **body: Any) -> Iterator[httpx.Response]:
    with service.client() as client, client.stream("POST", "/generate", json={**body, "stream": True}) as response:
        yield response


def events(service: RunningService, **body: Any) -> list[Event]:
    with streaming(service, **body) as response:
        assert response.status_code == 200
        return list(read(response))


def plain(service: RunningService, **body: Any) -> dict[str, Any]:
    response = service.generate(**body)
    assert response.status_code == 200, response.text
    return response.json()


def same_but_for_id_and_times(one: dict[str, Any], other: dict[str, Any]) -> bool:
    varying = {"id", "timing"}
    assert one.keys() == other.keys()
    return all(one[name] == other[name] for name in one.keys() - varying)


def pages_used(service: RunningService) -> float:
    value = service.state.metrics.registry.get_sample_value("anysize_kv_pages_used")
    assert value is not None
    return value


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"variant": "student"},
        {"temperature": 1.2, "seed": 3, "top_p": 0.9},
        {"temperature": 0.9, "seed": 8, "n": 3},
        {"logprobs": 2, "repetition_penalty": 1.3},
        {"logprobs": 0, "n": 2, "temperature": 1.0, "seed": 1, "min_p": 0.02},
    ],
    ids=str,
)
def test_a_stream_ends_in_the_plain_answer_and_its_pieces_make_the_text(
    shared: RunningService, options: dict[str, Any]
):
    body = {"prompt": PROMPT, "max_tokens": 24, **options}
    wanted = plain(shared, **body)
    *pieces, (last, answer) = events(shared, **body)
    assert last == "done"
    assert same_but_for_id_and_times(answer, wanted)
    assert {name for name, _ in pieces} == {"text"}
    fields = {"index", "text"} | ({"logprobs"} if "logprobs" in options else set())
    assert all(set(piece) == fields for _, piece in pieces)
    for index, choice in enumerate(answer.get("choices", [answer])):
        mine = [piece for _, piece in pieces if piece["index"] == index]
        assert "".join(piece["text"] for piece in mine) == choice["text"]
        if "logprobs" in options:
            assert [token for piece in mine for token in piece["logprobs"]] == choice["logprobs"]
            assert len(choice["logprobs"]) == 24


def test_each_token_comes_as_it_is_picked(service: RunningService):
    gate = Gate()
    service.family.before_step = gate
    with ThreadPoolExecutor(1) as pool:
        seen: list[Event] = []

        def collect() -> None:
            with streaming(service, prompt=PROMPT, max_tokens=20, logprobs=0) as response:
                for event in read(response):
                    seen.append(event)  # noqa: PERF402  (one by one, as they come)

        reading = pool.submit(collect)
        for count in range(1, 6):
            gate.wait()
            gate.let()
            eventually(lambda count=count: sum(len(data["logprobs"]) for _, data in seen) == count)
        gate.open()
        reading.result(timeout=30)


def test_what_stands_between_is_told_to_pass_events_on(shared: RunningService):
    with streaming(shared, prompt=PROMPT, max_tokens=1) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-length" not in response.headers
        assert len(list(read(response))) >= 1


def test_no_part_of_a_stop_string_is_ever_sent(shared: RunningService):
    whole = plain(shared, prompt=PROMPT, max_tokens=40)["text"]
    start = next(place for place in range(3, len(whole) - 2) if "\ufffd" not in whole[place : place + 2])
    stop = whole[start : start + 2]
    *pieces, (_, answer) = events(shared, prompt=PROMPT, max_tokens=40, stop=[stop, "never"])
    assert answer["finish_reason"] == "stop"
    assert answer["text"] == whole[: whole.index(stop)] == "".join(piece["text"] for _, piece in pieces)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"prompt": "a", "top_p": 2}, 422, "invalid_request"),
        ({"prompt": "a", "budget": {"parameters": 1}}, 422, "budget_too_small"),
        ({"prompt": "a" * 250, "max_tokens": 100}, 422, "invalid_request"),
    ],
)
def test_a_request_that_is_refused_gets_an_ordinary_error(
    shared: RunningService, body: dict[str, Any], status: int, kind: str
):
    refused = shared.generate(**body, stream=True)
    assert (refused.status_code, refused.json()["error"]["type"]) == (status, kind)
    assert refused.headers["content-type"] == "application/json"


def fail_at(service: RunningService, length: int, *, prompt: bool = False) -> None:
    """Make every step fail in which a sequence of this length moves; by its prompt, not by a single token, if so."""

    def fail(rows: Sequence[Row]) -> None:
        if any(row.sequence.length == length and (len(row.token_ids) > 1) == prompt for row in rows):
            raise RuntimeError("secret")

    service.family.before_step = fail


def test_a_failure_before_the_first_text_is_an_ordinary_error(
    service: RunningService, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("CRITICAL", logger="anysize.engine")
    fail_at(service, 0, prompt=True)
    failed = service.generate(prompt=PROMPT, max_tokens=8, stream=True)
    assert (failed.status_code, failed.json()["error"]["type"]) == (503, "engine_unavailable")
    assert "secret" not in failed.text
    assert service.state.engine.state().alive


def test_a_failure_after_some_text_is_the_last_event(service: RunningService, caplog: pytest.LogCaptureFixture):
    caplog.set_level("CRITICAL", logger="anysize.engine")
    fail_at(service, len(PROMPT) + 5)
    *pieces, (last, data) = events(service, prompt=PROMPT, max_tokens=20)
    assert pieces
    assert {name for name, _ in pieces} == {"text"}
    assert (last, data["error"]["type"]) == ("error", "engine_unavailable")
    assert "secret" not in data["error"]["message"]
    service.family.before_step = lambda rows: None
    assert plain(service, prompt=PROMPT, max_tokens=2)
    registry = service.state.metrics.registry
    assert registry.get_sample_value("anysize_request_failure_total", {"reason": "EngineError"}) == 1


def test_the_limit_of_draining_is_the_last_event_of_a_stream(service: RunningService):
    gate = Gate()
    service.family.before_step = gate
    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(events, service, prompt=PROMPT, max_tokens=200)
        for _ in range(4):
            gate.wait()
            gate.let()
        gate.wait()
        ended = pool.submit(service.state.engine.stop, within_s=0.1)
        *_, (last, data) = stream.result(timeout=30)
        assert (last, data["error"]["type"]) == ("error", "engine_unavailable")
        gate.open()
        ended.result(timeout=30)


def test_a_full_queue_refuses_before_it_tokenizes(service: RunningService, monkeypatch: pytest.MonkeyPatch):
    gate = Gate()
    service.family.before_step = gate
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(service.generate, prompt="a", max_tokens=1)]
        gate.wait()
        asked += [pool.submit(service.generate, prompt="a", max_tokens=1) for _ in range(2)]
        eventually(lambda: service.state.engine.state().waiting == 2)

        def never(*_: object) -> None:
            raise AssertionError("the tokenizer was paid for")

        with monkeypatch.context() as patched:
            patched.setattr(type(service.state.encoder), "encode", never)
            for stream in (False, True):
                refused = service.generate(prompt="a", max_tokens=1, stream=stream)
                assert refused.status_code == 429
                assert int(refused.headers["retry-after"]) >= 1
        gate.open()
        assert [one.result().status_code for one in asked] == [200] * 3


def test_a_client_that_leaves_in_mid_stream_frees_its_pages_within_two_steps(service: RunningService):
    gate = Gate()
    service.family.before_step = gate
    body = json.dumps({"prompt": "abc", "max_tokens": 200, "stream": True}).encode()
    with service.raw() as connection:
        connection.sendall(http_request(body, f"Content-Length: {len(body)}"))
        for _ in range(5):
            gate.wait()
            gate.let()
        gate.wait()
        assert pages_used(service) > 0
        assert b"event: text" in connection.recv(1 << 16)
    # The service needs a moment to hear of it; the model stands still meanwhile.
    (ticket,) = service.state.engine._ledger._tickets()
    eventually(ticket.request.cancelled.is_set)
    steps = service.family.steps
    gate.open()
    eventually(lambda: pages_used(service) == 0)
    assert service.family.steps - steps <= 1
    labels = {"variant": "teacher", "finished_reason": "cancelled"}
    registry = service.state.metrics.registry
    eventually(lambda: registry.get_sample_value("anysize_request_success_total", labels) == 1)


def test_a_reader_who_takes_nothing_holds_nobody_up_and_is_let_go():
    with serving(long_winded_family(), write_timeout_s=0.2, max_tokens=2048) as service:
        body = json.dumps({"prompt": "a", "max_tokens": 240, "logprobs": 20, "n": 8, "stream": True}).encode()
        with service.raw() as slow:
            slow.sendall(http_request(body, f"Content-Length: {len(body)}"))
            eventually(lambda: service.state.engine.state().running == 1)
            assert plain(service, prompt=PROMPT, max_tokens=20)
            eventually(lambda: service.state.engine.state().running == 0)
            assert pages_used(service) == 0


def test_a_client_that_takes_nothing_for_too_long_cancels_its_request():
    family = long_winded_family()
    request = GenerationRequest(
        id="x", prompt_ids=[9, 9], size=family.teacher, sampling=Sampling(max_tokens=200), samples=1
    )
    model = HashModel()
    model.before_step = lambda rows: time.sleep(0.01)
    ended: list[object] = []
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def serve(engine: Engine) -> None:
        script = GenerateEvents(Prepared(request, None), TokenTexts(family.tokenizer))
        stream = EventStream(engine, [request], script, 0.05, lambda _, outcome: ended.append(outcome))
        await stream({"type": "http"}, silence, send)

    with running(family, model) as engine:
        asyncio.run(serve(engine))
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        eventually(lambda: len(ended) == 1)
        assert isinstance(ended[0], Completion)
        assert ended[0].finish_reason == "cancelled"
    assert model.used_pages == 0


def test_text_that_comes_with_the_end_is_sent_before_it(monkeypatch: pytest.MonkeyPatch):
    family = long_winded_family()
    request = GenerationRequest(id="x", prompt_ids=[9], size=family.teacher, sampling=Sampling(max_tokens=9))
    future: Future[Completion] = Future()
    timing = Timing(queue_ms=1, ttft_ms=2, tpot_ms=None, total_ms=3)
    choice = Choice(text="ab", token_ids=[5], finish_reason="stop")
    completion = Completion(choices=(choice,), timing=timing, size=family.teacher)
    sent: list[Message] = []
    take = TextStream.take

    def take_just_before_the_end(stream: TextStream) -> list[Piece]:
        pieces = take(stream)
        if not future.done():
            stream.push(Piece(0, "b"))
            future.set_result(completion)
        return pieces

    def submit(_request: object, on_piece: OnPiece) -> "Future[Completion]":
        on_piece(Piece(0, "a"))
        return future

    async def send(message: Message) -> None:
        sent.append(message)

    async def serve() -> None:
        engine = cast(Engine, SimpleNamespace(submit=submit))
        script = GenerateEvents(Prepared(request, None), TokenTexts(family.tokenizer))
        stream = EventStream(engine, [request], script, 30, lambda *_: None)
        await stream({"type": "http"}, silence, send)

    monkeypatch.setattr(TextStream, "take", take_just_before_the_end)
    asyncio.run(serve())

    lines = b"".join(message.get("body", b"") for message in sent).decode().splitlines()
    assert [line for line in lines if line.startswith("event")] == ["event: text", "event: text", "event: done"]


ASKED = [
    {"prompt": prompt, "variant": variant, "max_tokens": tokens}
    for prompt, tokens in (("abc", 3), ("The sea is", 12), ("x" * 70, 20))
    for variant in ("student", "p3-4", "teacher")
]


def cut_some(seed: int, streams: int) -> None:
    """Ask for many streams, cut a fifth of them at random moments, and see that nobody else notices."""
    chance = random.Random(seed)
    with serving(long_winded_family(), max_queued_requests=streams, max_running_requests=16) as service:
        quiet = [plain(service, **body)["text"] for body in ASKED]

        def ask(number: int, cut_after: float | None) -> str | None:
            """The text, or None from a stream that was cut after some seconds."""
            body = ASKED[number % len(ASKED)]
            if cut_after is None:
                return "".join(data["text"] for name, data in events(service, **body) if name == "text")
            raw = json.dumps({**body, "stream": True}).encode()
            with service.raw() as connection:
                connection.sendall(http_request(raw, f"Content-Length: {len(raw)}"))
                time.sleep(cut_after)
            return None

        cut = set(chance.sample(range(streams), streams // 5))
        moments = [
            chance.uniform(0, chance.choice([0.01, 0.1, 0.5])) if number in cut else None for number in range(streams)
        ]
        with ThreadPoolExecutor(48) as pool:
            texts = list(pool.map(ask, range(streams), moments))
        eventually(lambda: (service.state.engine.state().waiting, service.state.engine.state().running) == (0, 0))
        assert pages_used(service) == 0, "a page has leaked"
        for number, text in enumerate(texts):
            assert text == (None if number in cut else quiet[number % len(ASKED)]), "a survivor's text has changed"
        assert plain(service, **ASKED[0])["text"] == quiet[0]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.fault) for seed in range(1, 5))])
def test_of_200_streams_those_that_are_cut_leave_nothing_and_the_others_are_whole(seed: int):
    cut_some(seed, 200)


def test_a_page_that_leaks_among_cut_streams_would_be_seen(monkeypatch: pytest.MonkeyPatch):
    chosen = iter(range(1000))

    def release(model: WatchedModel, sequence: Any) -> None:
        if next(chosen) != 20:  # after those that were asked for in quiet
            Model.release(model, sequence)

    monkeypatch.setattr(WatchedModel, "release", release)
    with pytest.raises(AssertionError, match="a page has leaked"):
        cut_some(0, 40)


def test_a_token_of_a_neighbour_among_cut_streams_would_be_seen(monkeypatch: pytest.MonkeyPatch):
    spoiled = []
    step = WatchedModel.step

    def swapped(model: WatchedModel, rows: Sequence[Row]) -> Tensor:
        logits_RV = step(model, rows)
        if len(logits_RV) > 2 and len(spoiled) < 8:
            spoiled.append(True)
            return logits_RV.roll(1, dims=0)
        return logits_RV

    monkeypatch.setattr(WatchedModel, "step", swapped)
    with pytest.raises(AssertionError, match="a survivor's text has changed"):
        cut_some(0, 40)
