"""Metrics of HTTP itself: every request, whatever became of it."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from anysize.api.record import Record

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class HttpMetrics:
    """Counts requests by method, route and status.

    Args:
        registry: holds the metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "anysize_http_requests", "HTTP requests.", ["method", "route", "status"], registry=registry
        )
        self._duration_s = Histogram(
            "anysize_http_request_duration_seconds",
            "From a request's head to its response's last byte.",
            ["route"],
            buckets=_BUCKETS_S,
            registry=registry,
        )

    def served(self, record: Record) -> None:
        """Count a request whose response is out."""
        self._requests.labels(record.method, record.route, str(record.status)).inc()
        self._duration_s.labels(record.route).observe(record.duration_s)
