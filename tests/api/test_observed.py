"""Request ids, metrics of HTTP, and the one line that the log has for each request."""

import logging
import re
from typing import Any

import httpx
import pytest
from fakes import Gate, long_winded_family
from hypothesis import given
from hypothesis import strategies as st
from models import eventually
from prometheus_client.parser import text_string_to_metric_families
from serving import RunningService, http_request, serving

from anysize.api.record import Record
from anysize.api.state import ServiceState


def http_samples(service: RunningService) -> dict[tuple[str, str, str], float]:
    """Requests by method, route and status."""
    with service.client() as client:
        text = client.get("/metrics").text
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "anysize_http_requests_total"
    }


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.__dict__["fields"] for record in caplog.records if record.name == "anysize.requests"]


def test_each_request_counts_under_the_template_of_its_route(service: RunningService):
    with service.client() as client:
        assert client.post("/generate", json={"prompt": "abc", "max_tokens": 1}).status_code == 200
        assert client.post("/generate", json={"prompt": "abc", "variant": "p99"}).status_code == 422
        assert client.post("/generate", content=b"x" * 5000).status_code == 413
        assert client.get("/generate").status_code == 405
        assert client.get("/secret/path-7f3a").status_code == 404
        assert client.request("BREW", "/generate").status_code == 405
        assert client.get("/docs").status_code == 200
        client.get("/health")
    samples = http_samples(service)
    assert samples == {
        ("POST", "/generate", "200"): 1,
        ("POST", "/generate", "422"): 1,
        ("POST", "/generate", "413"): 1,
        ("GET", "/generate", "405"): 1,
        ("GET", "unmatched", "404"): 1,
        ("other", "/generate", "405"): 1,
        ("GET", "other", "200"): 1,
        ("GET", "/health", "200"): 1,
    }
    assert ("GET", "/metrics", "200") in http_samples(service)


def test_a_client_gets_the_id_that_it_gave(shared: RunningService):
    with shared.client() as client:
        for path in ("/health", "/nowhere"):
            assert client.get(path, headers={"x-request-id": "abc-1.2:3_4"}).headers["x-request-id"] == "abc-1.2:3_4"
        streamed = client.post(
            "/generate", json={"prompt": "a", "max_tokens": 1, "stream": True}, headers={"x-request-id": "s"}
        )
        assert streamed.headers.get_list("x-request-id") == ["s"]


@given(st.text(max_size=200))
def test_an_id_that_could_break_a_log_or_a_header_is_replaced(given_id: str):
    header = (b"x-request-id", given_id.encode(errors="replace"))
    made = Record.of({"type": "http", "method": "GET", "headers": [header]}).request_id
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", made)
    assert made == given_id or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", given_id, re.ASCII)


def test_requests_without_an_id_get_different_ones(shared: RunningService):
    with shared.client() as client:
        ids = {client.get("/health").headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_has_one_line_a_request_with_what_it_cost(
    shared: RunningService, caplog: pytest.LogCaptureFixture, stream: bool
):
    with caplog.at_level(logging.INFO, "anysize.requests"), shared.client() as client:
        body = {"prompt": "abc", "max_tokens": 4, "variant": "student", "stream": stream}
        assert client.post("/generate", json=body, headers={"x-request-id": "mine"}).status_code == 200
        eventually(lambda: bool(lines(caplog)))
        client.get("/metrics")
    (line,) = lines(caplog)
    told = {name: line[name] for name in ("request_id", "method", "route", "status", "variant", "finish_reason")}
    assert told == {
        "request_id": "mine",
        "method": "POST",
        "route": "/generate",
        "status": 200,
        "variant": "student",
        "finish_reason": "length",
    }
    assert (line["prompt_tokens"], line["completion_tokens"]) == (3, 4)
    assert 0 <= line["queue_ms"] <= line["ttft_ms"] <= line["total_ms"] <= line["duration_ms"]
    assert line["id"].startswith("gen-")


def test_refusals_are_logged_by_the_name_of_their_error(shared: RunningService, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "anysize.requests"):
        assert shared.generate(prompt="abc", budget={"parameters": 1}).status_code == 422
        eventually(lambda: bool(lines(caplog)))
    (line,) = lines(caplog)
    assert (line["status"], line["error"]) == (422, "BudgetError")
    assert "variant" not in line


def test_a_client_that_leaves_is_logged_as_one_that_left(service: RunningService, caplog: pytest.LogCaptureFixture):
    gate = Gate()
    service.family.before_step = gate
    with caplog.at_level(logging.INFO, "anysize.requests"):
        with service.raw() as connection:
            body = b'{"prompt": "abc", "max_tokens": 50}'
            connection.sendall(http_request(body, f"Content-Length: {len(body)}"))
            gate.wait()
        gate.open()
        eventually(lambda: bool(lines(caplog)))
    (line,) = lines(caplog)
    assert line["finish_reason"] == "cancelled"


def test_an_unexpected_error_keeps_its_id_and_its_message_to_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    message = "canary-7f3a"

    def broken(*_: object) -> None:
        raise RuntimeError(message)

    with serving(long_winded_family()) as service, caplog.at_level(logging.DEBUG):
        monkeypatch.setattr(ServiceState, "engine", property(broken))
        with service.client() as client:
            response = client.get("/health", headers={"x-request-id": "crash-1"})
        monkeypatch.undo()
        assert (response.status_code, response.headers["x-request-id"]) == (500, "crash-1")
        assert "canary" not in response.text
        eventually(lambda: bool(lines(caplog)))
        (line,) = lines(caplog)
        assert (line["status"], line["error"], line["route"]) == (500, "RuntimeError", "/health")
        ours = [record.getMessage() for record in caplog.records if record.name.startswith("anysize")]
        assert any("request crash-1 failed with RuntimeError" in said and "health.py" in said for said in ours)
        assert not any("canary" in said for said in ours)
        assert http_samples(service)["GET", "/health", "500"] == 1


def test_a_request_id_costs_no_answer_its_headers(shared: RunningService):
    with httpx.Client(base_url=shared.url, trust_env=False) as client:
        response = client.get("/variants")
    assert response.headers["content-type"] == "application/json"
    assert len(response.headers.get_list("x-request-id")) == 1
