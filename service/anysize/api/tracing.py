"""OpenTelemetry traces: one span a request, sent over OTLP/HTTP. Imported only where traces are asked for.

Attributes follow OpenTelemetry's semantic conventions for generative AI and HTTP. None holds text of a prompt or an
answer.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from anysize import __version__
from anysize.api.record import Answered, Record

_PATH = "/v1/traces"
_FLUSH_MS = 2000


class Tracing:
    """Sends a span for each request, in the background.

    The client's `traceparent` makes it part of the client's trace, and says whether it is sampled; without one
    `OTEL_TRACES_SAMPLER` does. Other variables of the SDK, such as `OTEL_EXPORTER_OTLP_HEADERS`, count too.

    Args:
        endpoint: of a collector, such as `http://127.0.0.1:4318`; a path, where there is one, is taken as it is.
        family: name of what is served.
    """

    def __init__(self, endpoint: str, family: str) -> None:
        self._family = family
        whole = endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + _PATH
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "anysize", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=whole)))
        self._tracer = self._provider.get_tracer("anysize", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def report(self, record: Record, scope: Scope) -> str:
        """Send the span of a request that is over; returns the id of its trace, in hex."""
        parent = self._propagator.extract(dict(Headers(scope=scope)))
        operation = _operation(record)
        span = self._tracer.start_span(
            f"{operation} {self._family}" if operation else f"{record.method} {record.route}",
            context=parent,
            kind=SpanKind.SERVER,
            start_time=record.started_ns,
            attributes=_http_attributes(record),
        )
        if operation:
            span.set_attributes({"gen_ai.operation.name": operation, "gen_ai.provider.name": "anysize"})
            span.set_attribute("gen_ai.request.model", self._family)
        if record.answers:
            span.set_attributes(self._answer_attributes(record.answers))
            for answer in record.answers:
                _add_events(span, answer)
        if record.error is not None or record.status >= 500:
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", record.error or str(record.status))
        span.end(record.started_ns + int(1e9 * record.duration_s))
        return format_trace_id(span.get_span_context().trace_id)

    def close(self) -> None:
        """Send what is left, within seconds."""
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()

    def _answer_attributes(self, answers: list[Answered]) -> Mapping[str, Any]:
        first = answers[0]
        sampling, size = first.request.sampling, first.completion.size
        given = {
            "gen_ai.request.max_tokens": sampling.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.top_k": sampling.top_k or None,
            "gen_ai.request.seed": sampling.seed,
            "gen_ai.request.choice.count": first.request.samples,
            "gen_ai.response.id": first.request.id,
            "gen_ai.response.model": f"{self._family}@{size.id}",
            "gen_ai.response.finish_reasons": [
                choice.finish_reason for answer in answers for choice in answer.completion.choices
            ],
            "gen_ai.usage.input_tokens": sum(len(answer.request.prompt_ids) for answer in answers),
            "gen_ai.usage.output_tokens": sum(answer.completion.completion_tokens for answer in answers),
            "anysize.variant": size.id,
            "anysize.fraction": size.fraction,
            "anysize.cached_tokens": sum(answer.completion.cached_tokens for answer in answers),
        }
        if first.promise is not None:
            given["anysize.budget_kept"] = first.promise.is_kept(first.completion.timing)
        return {name: value for name, value in given.items() if value is not None}


def _operation(record: Record) -> str | None:
    """What the conventions call it; None for requests that generate nothing."""
    if "chat" in record.route:
        return "chat"
    return "text_completion" if record.route.endswith(("/generate", "/completions")) else None


def _http_attributes(record: Record) -> dict[str, Any]:
    return {
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "anysize.request_id": record.request_id,
    }


def _add_events(span: Span, answer: Answered) -> None:
    timing = answer.completion.timing
    arrived_ns = answer.ended_ns - int(1e6 * timing.total_ms)
    which = {"gen_ai.response.id": answer.request.id}
    for name, after_ms in (
        ("queued", 0.0),
        ("started", timing.queue_ms),
        ("first token", timing.ttft_ms),
        ("last token", timing.total_ms),
    ):
        span.add_event(name, which, timestamp=arrived_ns + int(1e6 * after_ms))
