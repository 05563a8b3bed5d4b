"""Gauges that are read from the engine and its model at each scrape."""

from collections.abc import Callable, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Gauge, Info
from prometheus_client.process_collector import ProcessCollector

from anysize import __version__
from anysize.api.health import Status, status_of
from anysize.engine.engine import Engine
from anysize.engine.limits import Limits
from anysize.engine.stepper import StepModel
from anysize.family.family import Family, Size

_STATUSES: tuple[Status, ...] = ("ok", "stalled", "dead")


def add_gauges(registry: CollectorRegistry, family: Family, engine: Engine, model: StepModel, limits: Limits) -> None:
    """Let a registry show what waits, what runs, how full the memory is, and whether the engine lives."""

    def gauge(name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(name, text, registry=registry).set_function(read)

    gauge("anysize_num_requests_waiting", "Requests in the queue.", lambda: engine.state().waiting)
    gauge("anysize_num_requests_running", "Requests in the model.", lambda: engine.state().running)
    gauge(
        "anysize_size_pressure",
        "How far the load sends sizes down the way to their floors, 0 to 1.",
        lambda: engine.state().pressure,
    )
    gauge("anysize_max_queued_requests", "Requests that may wait.", lambda: limits.max_queued_requests)
    gauge("anysize_max_running_requests", "Answers that may run.", lambda: limits.max_running_requests)
    gauge("anysize_kv_pages_total", "KV pages.", lambda: model.total_pages)
    gauge(
        "anysize_kv_pages_cached",
        "KV pages kept for prompts to come, held by no request.",
        lambda: model.cached_pages,
    )
    gauge("anysize_kv_pages_used", "KV pages that requests hold.", lambda: model.used_pages)
    gauge("anysize_kv_cache_usage_perc", "Share of the KV pages in use.", lambda: model.used_pages / model.total_pages)
    gauge(
        "anysize_engine_step_age_seconds",
        "Time since the model last finished a step; 0 while it has nothing to do.",
        lambda: engine.state().step_age_s,
    )
    gauge("anysize_ready", "1 while new requests are taken.", lambda: float(engine.state().is_ready))
    states = Gauge("anysize_engine_state", "1 for what /health says.", ["state"], registry=registry)
    for status in _STATUSES:
        states.labels(status).set_function(partial(_is, engine, status))
    _add_sizes(registry, family.ladder)
    Info("anysize_service", "What is served, and by which version.", registry=registry).info(
        {"version": __version__, "family": family.name}
    )
    ProcessCollector(registry=registry)


def _is(engine: Engine, status: Status) -> float:
    return float(status_of(engine.state()) == status)


def _add_sizes(registry: CollectorRegistry, ladder: Sequence[Size]) -> None:
    fractions = Gauge(
        "anysize_variant_fraction", "Inference parameters over the teacher's.", ["variant"], registry=registry
    )
    for size in ladder:
        fractions.labels(size.id).set(size.fraction)
