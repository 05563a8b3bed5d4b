"""Prometheus metrics, named as other LLM servers name theirs, with the prefix `anysize_`. Labels are closed sets."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from anysize.engine.engine import Engine
from anysize.engine.request import Completion, GenerationRequest
from anysize.family.family import Size

router = APIRouter()

_LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TPOT_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_OTHER = "other"


class Metrics:
    """The metrics of one service.

    Args:
        ladder: whose ids are the values of the label `variant`; any other variant counts as `other`.
        engine: whose queue is read at each scrape.
    """

    def __init__(self, ladder: Sequence[Size], engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self._known = frozenset(size.id for size in ladder)
        self._finished = Counter(
            "anysize_request_success",
            "Requests that were answered.",
            ["variant", "finished_reason"],
            registry=self.registry,
        )
        self._failed = Counter(
            "anysize_request_failure", "Requests that were not answered.", ["reason"], registry=self.registry
        )
        self._prompt_tokens = Counter("anysize_prompt_tokens", "Prompt tokens.", registry=self.registry)
        self._generation_tokens = Counter(
            "anysize_generation_tokens", "Generated tokens.", ["variant"], registry=self.registry
        )
        self._queue_s = self._histogram("anysize_request_queue_time_seconds", "Time in the queue.", _LATENCY_BUCKETS_S)
        self._ttft_s = self._histogram(
            "anysize_time_to_first_token_seconds", "Time to first token.", _LATENCY_BUCKETS_S
        )
        self._tpot_s = self._histogram("anysize_inter_token_latency_seconds", "Time between tokens.", _TPOT_BUCKETS_S)
        self._total_s = self._histogram(
            "anysize_e2e_request_latency_seconds", "Time to last token.", _LATENCY_BUCKETS_S
        )
        waiting = Gauge("anysize_num_requests_waiting", "Requests in the queue.", registry=self.registry)
        waiting.set_function(lambda: engine.state().waiting)
        running = Gauge("anysize_num_requests_running", "Requests in the model.", registry=self.registry)
        running.set_function(lambda: engine.state().running)

    def finished(self, request: GenerationRequest, completion: Completion) -> None:
        """Count a request that got its answer, or whose client left first."""
        variant = request.size.id if request.size.id in self._known else _OTHER
        timing = completion.timing
        self._finished.labels(variant, completion.finish_reason).inc()
        self._prompt_tokens.inc(len(request.prompt_ids))
        self._generation_tokens.labels(variant).inc(len(completion.token_ids))
        if completion.finish_reason == "cancelled":
            return  # how long a client stayed says nothing of how long an answer takes
        self._queue_s.labels(variant).observe(timing.queue_ms / 1e3)
        self._ttft_s.labels(variant).observe(timing.ttft_ms / 1e3)
        self._total_s.labels(variant).observe(timing.total_ms / 1e3)
        if timing.tpot_ms is not None:
            self._tpot_s.labels(variant).observe(timing.tpot_ms / 1e3)

    def failed(self, error: Exception) -> None:
        """Count a request that got an error."""
        self._failed.labels(type(error).__name__).inc()

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, ["variant"], buckets=buckets, registry=self.registry)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """The metrics in Prometheus text format."""
    return Response(generate_latest(request.app.state.service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
