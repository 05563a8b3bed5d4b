"""What is refused, how, and that the engine never hears of it."""

import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from serving import RunningService, http_request

INT64 = 1 << 63


@pytest.fixture(autouse=True)
def no_engine_calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of what is refused here reaches the engine."""
    name = "service" if "service" in request.fixturenames else "shared"
    used: RunningService = request.getfixturevalue(name)
    submitted: list[object] = []
    engine, submit = used.state.engine, used.state.engine.submit
    with monkeypatch.context() as patched:
        patched.setattr(engine, "submit", lambda one, *stream: (submitted.append(one), submit(one, *stream))[1])
        yield
    assert submitted == []
    assert used.generate(prompt="a", max_tokens=1).status_code == 200


def refused(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The error, after a look at its shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert {"type", "message"} <= set(body["error"]) <= {"type", "message", "field"}
    assert body["error"]["type"] == kind
    assert body["error"]["message"]
    assert len(response.content) < 1000
    return body["error"]


def post(service: RunningService, content: bytes | Iterator[bytes], **headers: str) -> httpx.Response:
    with service.client() as client:
        return client.post("/generate", content=content, headers={"Content-Type": "application/json", **headers})


BOUNDS = {
    "max_tokens": (1, 1_000_000),
    "temperature": (0, 100),
    "top_p": (None, 1),
    "top_k": (0, 1_000_000),
    "min_p": (0, 1),
    "repetition_penalty": (0.1, 10),
    "logprobs": (0, 20),
    "n": (1, 16),
    "seed": (0, INT64 - 1),
    "budget.parameters": (1, INT64 - 1),
    "budget.fraction": (None, 1),
    "budget.memory_bytes": (1, INT64 - 1),
}
FLOATS = {"temperature", "top_p", "min_p", "repetition_penalty", "budget.fraction"}
NULLABLE = {"seed", "logprobs", "budget.parameters", "budget.fraction", "budget.memory_bytes"}


def wrong_numbers() -> Iterator[tuple[str, str]]:
    for field, (least, most) in BOUNDS.items():
        wrong = ["-1", "NaN", "Infinity", "-Infinity", '"1"', "true", "false", "[]", "{}", str(most + 1), str(INT64)]
        wrong.append("0" if least is None else str(least - 1))
        wrong += [] if most >= 1 << 31 else [str(1 << 31)]
        wrong += [] if field in NULLABLE else ["null"]
        wrong += ["1.5"] if field not in FLOATS else ["1e999"]
        for value in dict.fromkeys(wrong):
            yield field, value


@pytest.mark.parametrize(("field", "value"), list(wrong_numbers()))
def test_a_number_out_of_range_is_refused_by_its_name(shared: RunningService, field: str, value: str):
    outer, _, inner = field.partition(".")
    text = f'{{"{inner}": {value}}}' if inner else value
    error = refused(post(shared, f'{{"prompt": "a", "{outer}": {text}}}'.encode()), 422, "invalid_request")
    assert error["field"] == field


def test_the_greatest_and_least_numbers_are_taken(shared: RunningService):
    # Not refused by the schema: what refuses some of them knows the family.
    from anysize.api.schemas import GenerateIn

    for field, (least, most) in BOUNDS.items():
        outer, _, inner = field.partition(".")
        for value in (least, most):
            if value is not None:
                GenerateIn.model_validate({"prompt": "a", outer: {inner: value} if inner else value})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": "a", "temprature": 1}, "temprature"),
        ({"prompt": "a", "budget": {"latency": 3}}, "budget.latency"),
        ({"messages": [{"role": "user", "content": "a", "name": "x"}]}, "messages.0.name"),
        ({"messages": [{"role": "user", "content": "a"}], "chat_template": "{{ 1 }}"}, "chat_template"),
        ({"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {}}, "chat_template_kwargs"),
        ({"prompt": "a", "tokenize": False}, "tokenize"),
    ],
)
def test_an_unknown_field_is_named(shared: RunningService, body: dict[str, Any], field: str):
    with shared.client() as client:
        error = refused(client.post("/generate", json=body), 422, "invalid_request")
    assert error["field"] == field
    assert "not known" in error["message"]


def test_a_long_unknown_field_is_not_sent_back_whole(shared: RunningService):
    refused(post(shared, json.dumps({"prompt": "a", "x" * 100_000: 1}).encode()), 422, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": None},
        {"prompt": "a", "messages": [{"role": "user", "content": "a"}]},
        {"prompt": "a", "budget": {"fraction": 0.5}, "variant": "teacher"},
        {"prompt": ""},
        {"prompt": ["a"]},
        {"prompt": 1},
        {"messages": []},
        {"messages": {}},
        {"messages": ["a"]},
        {"messages": [{"role": "tool", "content": "a"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": ["a"]}]},
        {"messages": [{"role": "user", "content": "a"}] * 1001},
        {"prompt": "a", "budget": 0.5},
        {"prompt": "a", "variant": 1},
        {"prompt": "a", "variant": "p" * 1025},
        {"prompt": "a", "stop": ""},
        {"prompt": "a", "stop": [""]},
        {"prompt": "a", "stop": [1]},
        {"prompt": "a", "stop": ["x"] * 17},
        {"prompt": "a", "stop": "x" * 257},
        {"prompt": "a", "stop": ["x" * 257]},
        {"prompt": "a", "max_tokens": 2049},
        {"prompt": "a", "max_tokens": 129, "n": 16},
        {"prompt": "a", "stream": 1},
        {"prompt": "a", "stream": None},
        {"prompt": "a", "stream": "true"},
        {"prompt": "a" * 250, "max_tokens": 100},
        [],
        "prompt",
        None,
        1,
    ],
    ids=lambda body: json.dumps(body)[:60],
)
def test_a_body_that_is_no_request_is_refused(shared: RunningService, body: Any):
    refused(post(shared, json.dumps(body).encode()), 422, "invalid_request")


@pytest.mark.parametrize(
    ("stop", "field"), [("", "stop"), (1, "stop"), ([""], "stop.0"), (["x", 1], "stop.1"), (["x"] * 17, "stop")]
)
def test_a_wrong_stop_string_is_found_by_its_place(shared: RunningService, stop: Any, field: str):
    assert refused(shared.generate(prompt="a", stop=stop), 422, "invalid_request")["field"] == field


def test_a_prompt_with_more_characters_than_allowed_is_refused(shared: RunningService):
    error = refused(shared.generate(prompt="a" * 200_001), 422, "invalid_request")
    assert "200000" in error["message"]
    halves = [{"role": "user", "content": "a" * 100_001}, {"role": "assistant", "content": "a" * 100_000}]
    refused(shared.generate(messages=halves), 422, "invalid_request")


def test_a_budget_below_the_smallest_size_names_it(shared: RunningService):
    smallest = shared.family.ladder[0]
    for budget in ({"parameters": 1}, {"fraction": 1e-9}, {"memory_bytes": 1}):
        error = refused(shared.generate(prompt="a", budget=budget), 422, "budget_too_small")
        assert smallest.id in error["message"]
        assert str(smallest.footprint.parameters) in error["message"]


@pytest.mark.parametrize("variant", ["", "p", "p0", "p5", "p2-1", "TEACHER", "../x", "p1\u0000", "p" * 1024, "٣"])
def test_a_variant_that_is_none_is_refused(shared: RunningService, variant: str):
    refused(shared.generate(prompt="a", variant=variant), 422, "unknown_variant")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"prompt=a",
        b'{"prompt": "a",}',
        b'{"prompt": "\xff\xfe"}',
        b"\xff\xfe\x00",
        b'{"prompt": "a"} x',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"prompt": "a", "budget": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"prompt": "a", "seed": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda content: f"{content[:20]!r}x{len(content)}",
)
def test_what_is_no_json_is_refused(shared: RunningService, content: bytes):
    refused(post(shared, content), 422, "invalid_json")


def test_an_empty_body_is_refused(shared: RunningService):
    refused(post(shared, b""), 422, "invalid_request")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "nonsense"])
def test_another_content_type_is_not_read_as_json(shared: RunningService, content_type: str):
    refused(post(shared, b'{"prompt": "a"}', **{"Content-Type": content_type}), 422, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        r'{"prompt": "\ud800"}',
        r'{"prompt": "a \udfff b"}',
        r'{"messages": [{"role": "user", "content": "\ud83d"}]}',
        r'{"prompt": "a", "stop": "\ud800"}',
        r'{"prompt": "a", "stop": ["\ud800"]}',
        r'{"prompt": "a", "variant": "\ud800"}',
        r'{"prompt": "a", "\ud800": 1}',
        r'{"prompt": "a", "budget": {"\ud800": 1}}',
        r'{"messages": [{"role": "\ud800", "content": "a"}]}',
    ],
)
def test_half_a_character_is_refused(shared: RunningService, body: str):
    refused(post(shared, body.encode()), 422, "invalid_request")


@pytest.mark.parametrize("path", ["/nothing", "/generate/", "/variants/teacher", "/%00", "/..%2f"])
def test_an_unknown_path_has_the_same_shape(shared: RunningService, path: str):
    with shared.client() as client:
        refused(client.get(path), 404, "not_found")


@pytest.mark.parametrize(("method", "path"), [("GET", "/generate"), ("POST", "/variants"), ("DELETE", "/health")])
def test_another_method_has_the_same_shape_and_names_the_right_one(shared: RunningService, method: str, path: str):
    with shared.client() as client:
        response = client.request(method, path)
    refused(response, 405, "method_not_allowed")
    assert response.headers["allow"]


def test_a_body_that_says_it_is_too_large_is_refused_unread(service: RunningService):
    response = post(service, b'{"prompt": "' + b"a" * 5000 + b'"}')
    error = refused(response, 413, "body_too_large")
    assert "4096" in error["message"]
    with service.raw() as connection:
        connection.sendall(http_request(b"", "Content-Length: 99999999999"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_large_body_gets_its_answer_before_the_connection_closes(service: RunningService):
    for _ in range(3):
        refused(post(service, b"a" * (8 << 20)), 413, "body_too_large")


def test_a_body_in_chunks_is_refused_once_it_is_too_large(service: RunningService):
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield b" " * (1 << 20)

    refused(post(service, b" " * 4000), 422, "invalid_json")  # warm, and within the limit
    before = psutil.Process().memory_info().rss
    for _ in range(3):
        refused(post(service, chunks()), 413, "body_too_large")
    assert sent > 0
    assert psutil.Process().memory_info().rss - before < 24 << 20


def test_a_body_within_the_limit_is_read_however_it_comes(service: RunningService, no_engine_calls: None):
    refused(post(service, iter([b'{"prompt": "a', b'", "top_k"', b": -1}"])), 422, "invalid_request")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "GZIP", "gzip, gzip", "nonsense"])
def test_a_compressed_body_is_refused(service: RunningService, encoding: str):
    body = gzip.compress(b'{"prompt": "a"}')
    error = refused(post(service, body, **{"Content-Encoding": encoding}), 415, "unsupported_encoding")
    assert "compressed" in error["message"]


def test_a_compressed_body_without_its_header_is_no_json(service: RunningService):
    refused(post(service, gzip.compress(b'{"prompt": "a"}')), 422, "invalid_json")


def test_an_unexpected_error_tells_the_client_nothing(service: RunningService, monkeypatch: pytest.MonkeyPatch):
    def fail(_body: object) -> list[int]:
        raise RuntimeError("secret")

    with monkeypatch.context() as patched:
        patched.setattr(type(service.state.encoder), "encode", lambda _self, body: fail(body))
        error = refused(service.generate(prompt="a"), 500, "internal")
    assert "secret" not in error["message"]


def test_refusals_do_not_wait_for_the_model(shared: RunningService):
    started = time.monotonic()
    with shared.client() as client:
        for _ in range(20):
            refused(client.post("/generate", json={"prompt": "a", "top_p": 2}), 422, "invalid_request")
    assert time.monotonic() - started < 30
