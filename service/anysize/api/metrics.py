"""Prometheus metrics, named as other LLM servers name theirs, with the prefix `anysize_`. Labels are closed sets."""

from collections.abc import Sequence
from itertools import pairwise

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

from anysize.api.access import KeyRoute
from anysize.api.http_metrics import HttpMetrics
from anysize.api.record import Answered, current
from anysize.engine.engine import StepReport
from anysize.engine.request import Completion, GenerationRequest, Timing
from anysize.family.family import Size
from anysize.sizing.planner import Promise

router = APIRouter(route_class=KeyRoute)

_LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TPOT_BUCKETS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_STEP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_STEP_TOKENS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_REQUEST_TOKENS_BUCKETS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_RATIO_BUCKETS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
_OTHER = "other"


class Metrics:
    """The metrics of one service, and what its routes tell of each request.

    Args:
        ladder: whose ids are the values of the label `variant`; any other variant counts as `other`.
    """

    def __init__(self, ladder: Sequence[Size]) -> None:
        self.registry = CollectorRegistry()
        self.http = HttpMetrics(self.registry)
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
        self._degradations = Counter(
            "anysize_size_degradations",
            "Answers on a smaller size than the budget alone would have given, because of the load.",
            ["variant"],
            registry=self.registry,
        )
        self._resizes = Counter(
            "anysize_resizes", "Answers that went on on another size.", ["direction"], registry=self.registry
        )
        self._cache_queries = Counter(
            "anysize_prefix_cache_queries",
            "Prompt tokens that were looked for in the prefix cache.",
            registry=self.registry,
        )
        self._cache_hits = Counter(
            "anysize_prefix_cache_hits", "Prompt tokens that were found there and not computed.", registry=self.registry
        )
        self._cache_resumed = Counter(
            "anysize_prefix_cache_resumed",
            "Prompt tokens that were found there up to some layer, from other sizes, and computed from there on.",
            registry=self.registry,
        )
        self._queue_s = self._histogram("anysize_request_queue_time_seconds", "Time in the queue.", _LATENCY_BUCKETS_S)
        self._ttft_s = self._histogram(
            "anysize_time_to_first_token_seconds", "Time to first token.", _LATENCY_BUCKETS_S
        )
        self._tpot_s = self._histogram("anysize_inter_token_latency_seconds", "Time between tokens.", _TPOT_BUCKETS_S)
        self._total_s = self._histogram(
            "anysize_e2e_request_latency_seconds", "Time to last token.", _LATENCY_BUCKETS_S
        )
        self._prefill_s = self._histogram(
            "anysize_request_prefill_time_seconds", "Time from the queue to the first token.", _LATENCY_BUCKETS_S
        )
        self._decode_s = self._histogram(
            "anysize_request_decode_time_seconds", "Time from the first token to the last.", _LATENCY_BUCKETS_S
        )
        self._request_prompt_tokens = Histogram(
            "anysize_request_prompt_tokens",
            "Prompt tokens of a request.",
            buckets=_REQUEST_TOKENS_BUCKETS,
            registry=self.registry,
        )
        self._request_generation_tokens = self._histogram(
            "anysize_request_generation_tokens", "Generated tokens of a request.", _REQUEST_TOKENS_BUCKETS
        )
        self._step_s = Histogram(
            "anysize_batch_forward_duration_seconds",
            "Time of one step of the model.",
            buckets=_STEP_BUCKETS_S,
            registry=self.registry,
        )
        self._step_answers = Histogram(
            "anysize_batch_current_size", "Answers in one step.", buckets=_BATCH_BUCKETS, registry=self.registry
        )
        self._step_tokens = Histogram(
            "anysize_iteration_tokens", "Tokens in one step.", buckets=_STEP_TOKENS_BUCKETS, registry=self.registry
        )

        self._over_predicted = Histogram(
            "anysize_latency_measured_over_predicted",
            "Measured over predicted times of requests with a latency budget.",
            ["kind"],
            buckets=_RATIO_BUCKETS,
            registry=self.registry,
        )
        self._budgets_kept = Counter(
            "anysize_latency_budget_kept", "Requests whose latency budget was kept.", registry=self.registry
        )
        self._budgets_missed = Counter(
            "anysize_latency_budget_missed", "Requests whose latency budget was missed.", registry=self.registry
        )

    def stepped(self, report: StepReport) -> None:
        """Count a step of the model."""
        self._step_s.observe(report.duration_s)
        self._step_answers.observe(report.answers)
        self._step_tokens.observe(report.tokens)

    def finished(self, request: GenerationRequest, completion: Completion, promise: Promise | None = None) -> None:
        """Count a request that got its answer, or whose client left first; and what its budget was promised, if any."""
        if (record := current.get()) is not None:
            record.answers.append(Answered(request, completion, promise))
        variant = self._label(completion.size)
        timing = completion.timing
        self._finished.labels(variant, completion.finish_reason).inc()
        self._sized(request, completion)
        self._prompt_tokens.inc(len(request.prompt_ids))
        self._cache_queries.inc(len(request.prompt_ids))
        self._cache_hits.inc(completion.cached_tokens)
        self._cache_resumed.inc(completion.resumed_tokens)
        self._generation_tokens.labels(variant).inc(completion.completion_tokens)
        self._request_prompt_tokens.observe(len(request.prompt_ids))
        self._request_generation_tokens.labels(variant).observe(completion.completion_tokens)
        if completion.finish_reason == "cancelled":
            return  # how long a client stayed says nothing of how long an answer takes
        self._queue_s.labels(variant).observe(timing.queue_ms / 1e3)
        self._ttft_s.labels(variant).observe(timing.ttft_ms / 1e3)
        self._prefill_s.labels(variant).observe((timing.ttft_ms - timing.queue_ms) / 1e3)
        self._decode_s.labels(variant).observe((timing.total_ms - timing.ttft_ms) / 1e3)
        self._total_s.labels(variant).observe(timing.total_ms / 1e3)
        if timing.tpot_ms is not None:
            self._tpot_s.labels(variant).observe(timing.tpot_ms / 1e3)
        if promise is not None:
            self._promised(promise, timing)

    def failed(self, error: Exception) -> None:
        """Count a request that got an error."""
        if (record := current.get()) is not None:
            record.error = type(error).__name__
        self._failed.labels(type(error).__name__).inc()

    def _sized(self, request: GenerationRequest, completion: Completion) -> None:
        if not request.is_resizable:
            if completion.size is not request.size:
                self._degradations.labels(self._label(completion.size)).inc()
            return
        for before, after in pairwise(completion.choices[0].spans):
            self._resizes.labels("down" if after.size.layers < before.size.layers else "up").inc()

    def _label(self, size: Size) -> str:
        return size.id if size.id in self._known else _OTHER

    def _promised(self, promise: Promise, timing: Timing) -> None:
        (self._budgets_kept if promise.is_kept(timing) else self._budgets_missed).inc()
        forecast = promise.forecast
        for kind, measured_ms, predicted_ms in (
            ("ttft", timing.ttft_ms, forecast.ttft_ms),
            ("tpot", timing.tpot_ms, forecast.tpot_ms),
        ):
            if measured_ms is not None and predicted_ms:
                self._over_predicted.labels(kind).observe(measured_ms / predicted_ms)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, ["variant"], buckets=buckets, registry=self.registry)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """The metrics in Prometheus text format."""
    return Response(generate_latest(request.app.state.service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
