"""OpenTelemetry spans as a collector receives them, from a service whose setting names one."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fakes import long_winded_family
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from serving import serving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collecting() -> Iterator[tuple[str, list[bytes]]]:
    """A collector: its address, and the bodies that came."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()


def spans_of(bodies: list[bytes]) -> list[Any]:
    return [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    assert kind is not None
    return [plain(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: plain(one.value) for one in span.attributes}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_one_span_of_the_clients_trace(stream: bool):
    with collecting() as (endpoint, bodies):
        with serving(long_winded_family(), otlp_endpoint=endpoint) as service, service.client() as client:
            body = {"prompt": "canary-7f3a", "max_tokens": 4, "variant": "student", "seed": 3, "stream": stream}
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "authorization": "canary-7f3a"}
            assert client.post("/generate", json=body, headers=headers).status_code == 200
            client.get("/health")
        assert b"canary" not in b"".join(bodies)
        (span,) = spans_of(bodies)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.name == "text_completion tiny"
    said = attributes(span)
    assert (
        said.items()
        >= {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.request.model": "tiny",
            "gen_ai.response.model": "tiny@student",
            "gen_ai.response.finish_reasons": ["length"],
            "gen_ai.request.max_tokens": 4,
            "gen_ai.request.seed": 3,
            "gen_ai.usage.input_tokens": 11,
            "gen_ai.usage.output_tokens": 4,
            "http.route": "/generate",
            "http.response.status_code": 200,
            "anysize.variant": "student",
        }.items()
    )
    assert [event.name for event in span.events] == ["queued", "started", "first token", "last token"]
    times = [event.time_unix_nano for event in span.events]
    assert times == sorted(times)
    assert span.start_time_unix_nano <= times[-1]
    assert span.status.code == 0


def test_a_refusal_is_a_span_with_its_error():
    with collecting() as (endpoint, bodies):
        with serving(long_winded_family(), otlp_endpoint=endpoint) as service:
            assert service.generate(prompt="a", budget={"parameters": 1}).status_code == 422
        (span,) = spans_of(bodies)
    assert attributes(span)["error.type"] == "BudgetError"
    assert span.status.code == 2
    assert span.parent_span_id == b""


def test_a_collector_that_is_not_there_costs_no_answer():
    with collecting() as (endpoint, _bodies):
        pass
    with serving(long_winded_family(), otlp_endpoint=endpoint) as service:
        assert service.generate(prompt="a", max_tokens=1).status_code == 200


def test_without_the_setting_nothing_of_opentelemetrys_sdk_is_imported():
    code = "import sys; import anysize.api.app, anysize.commands.serve; print('opentelemetry.sdk' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
