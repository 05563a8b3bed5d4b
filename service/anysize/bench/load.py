"""More load than a service can take: how much it still answers, and how fast it refuses the rest."""

import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import httpx

from anysize.bench.client import run_client
from anysize.bench.cores import Cores
from anysize.bench.decoding import passages
from anysize.bench.mixed import spread_sizes
from anysize.bench.service import RunningService, running_service
from anysize.errors import EngineError
from anysize.family.family import Family
from anysize.settings import Settings

_BODIES = 256
_WAITING = "anysize_num_requests_waiting "
_LOOK_EVERY_S = 0.3


def bench_load(
    family: Family,
    settings: Settings,
    cores: Cores,
    *,
    times: float,
    sizes: int,
    answer_tokens: int,
    warm_s: float,
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Find the capacity of a service with clients that wait for their answers, then ask for several times as much.

    The overload is an open loop: requests come at random moments (a Poisson process), whether or not those before have
    been answered. Answers are of random lengths, so that they do not end together. What ends in the counted seconds is
    counted, in both parts.

    Args:
        family: that the settings name.
        settings: of the service.
        cores: of the service and of the clients.
        times: how many times its capacity the service is asked for.
        sizes: that requests ask for.
        answer_tokens: of an answer, on average.
        warm_s: before anything counts, in each part.
        seconds: that count, in each part.
        say: told in one line what is being done.

    Returns:
        Capacity, goodput and their ratio; share and latency of refusals; the longest queue that was seen.

    Raises:
        EngineError: the service or the clients failed, or nothing was answered in time.
    """
    bodies = _bodies(family, sizes, answer_tokens)
    timing = {"warm_s": warm_s, "seconds": seconds}
    given = settings.model_dump(exclude_unset=True, exclude={"family", "host", "port"})
    with running_service(settings.family, **given) as service:
        say(f"measuring the capacity for {warm_s + seconds:g} s")
        # A few more than run side by side, so that no place is ever empty.
        clients = settings.max_running_requests + max(1, min(8, settings.max_queued_requests))
        capacity = run_client("closed", service.url, cores.clients, bodies=bodies, clients=clients, seed=0, **timing)
        if not capacity["answered"]:
            raise EngineError(f"nothing was answered in {seconds:g} s; ask for more --seconds")
        rate_per_s = times * capacity["answered"] / seconds
        say(f"asking for {rate_per_s:.1f} requests a second for {warm_s + seconds:g} s")
        with _watched_queue(service) as seen:
            found = run_client(
                "opened", service.url, cores.clients, bodies=bodies, rate_per_s=rate_per_s, seed=1, **timing
            )
    latencies_ms = sorted(latency_ms for latency_ms, _ in found["refused"])
    report: dict[str, Any] = {
        "benchmark": "load",
        "seconds": seconds,
        "sizes": min(sizes, len(family.ladder)),
        "service_cores": len(cores.service),
        "client_cores": len(cores.clients),
        "capacity_requests_per_s": capacity["answered"] / seconds,
        "capacity_tokens_per_s": capacity["tokens"] / seconds,
        "asked_requests_per_s": rate_per_s,
        "answered": found["answered"],
        "refused": len(latencies_ms),
        "refused_share": len(latencies_ms) / max(1, len(latencies_ms) + found["answered"]),
        "refusals_without_retry_after": sum(not has_header for _, has_header in found["refused"]),
        "other_ends": len(found["others"]),
        "goodput_tokens_per_s": found["tokens"] / seconds,
        "ratio_goodput_over_capacity": found["tokens"] / capacity["tokens"],
        "queue_largest_seen": max(seen, default=0),
        "queue_limit": settings.max_queued_requests,
    }
    if len(latencies_ms) > 1:
        report["refusal_p50_ms"] = statistics.median(latencies_ms)
        report["refusal_p99_ms"] = statistics.quantiles(latencies_ms, n=100, method="inclusive")[-1]
        report["refusal_worst_ms"] = latencies_ms[-1]
    return report


def _bodies(family: Family, sizes: int, answer_tokens: int) -> list[dict[str, Any]]:
    chance = random.Random(0)  # noqa: S311  (no secret)
    spread = spread_sizes(family, sizes)
    return [
        {
            "prompt": text,
            "variant": chance.choice(spread).id,
            "max_tokens": chance.randint(max(1, answer_tokens // 4), 2 * answer_tokens - answer_tokens // 4),
            "temperature": 0,
        }
        for text in passages(_BODIES)
    ]


@contextmanager
def _watched_queue(service: RunningService) -> Iterator[list[float]]:
    """Lengths of the queue, as the service's own metrics show them a few times a second."""
    seen: list[float] = []
    done = Event()

    def look() -> None:
        with service.client() as client:
            while not done.wait(_LOOK_EVERY_S):
                try:
                    text = client.get("/metrics").text
                except httpx.TransportError:
                    continue
                seen.extend(float(line.split()[1]) for line in text.splitlines() if line.startswith(_WAITING))

    watching = Thread(target=look, daemon=True)
    watching.start()
    try:
        yield seen
    finally:
        done.set()
        watching.join(timeout=10)
