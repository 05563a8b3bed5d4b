"""The clients of a benchmarked service, in a process of their own: `python -m anysize.bench.client`.

Reads one job, a JSON object, from standard input and writes one JSON object to standard output. It does as little as
it can while its clock runs, and loads nothing but an HTTP client, because it may share its cores with the service.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from anysize.errors import EngineError

Job = dict[str, Any]
_TOO_MANY = 429


def run_client(kind: str, url: str, cores: Sequence[int], **job: Any) -> dict[str, Any]:
    """Run a job in a process of its own, and return what it found.

    Args:
        kind: a name in `KINDS`.
        url: of the service.
        cores: that the process keeps to; wherever it may where there are none.
        job: see the function of that kind.

    Raises:
        EngineError: it failed.
    """
    line = json.dumps({"kind": kind, "url": url, "cores": list(cores), **job})
    done = subprocess.run(
        [sys.executable, "-m", "anysize.bench.client"], input=line, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise EngineError(f"the clients of the benchmark failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


async def streams(client: httpx.AsyncClient, bodies: Sequence[Job]) -> dict[str, Any]:
    """Stream the answers to all bodies at once.

    Returns:
        `elapsed_s` from the first request to the last byte, `cpu_s` of this process in that time, and `answers`, the
        last event of each.
    """

    async def read(body: Job) -> bytes:
        async with client.stream("POST", "/generate", json={**body, "stream": True}) as response:
            # Kept as they come: taking events apart can wait until the clock has stopped.
            return b"".join([piece async for piece in response.aiter_raw()])

    started_s, cpu_s = time.perf_counter(), time.process_time()
    raw = await asyncio.gather(*map(read, bodies))
    elapsed_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    return {"elapsed_s": elapsed_s, "cpu_s": cpu_s, "answers": [_last_event(one) for one in raw]}


async def closed(
    client: httpx.AsyncClient, bodies: Sequence[Job], clients: int, warm_s: float, seconds: float, seed: int
) -> dict[str, Any]:
    """So many clients, each of which asks again as soon as it has its answer. See `_watched`."""
    return await _watched(client, bodies, warm_s, seconds, seed, clients=clients)


async def opened(
    client: httpx.AsyncClient, bodies: Sequence[Job], rate_per_s: float, warm_s: float, seconds: float, seed: int
) -> dict[str, Any]:
    """Requests that come at random moments, whether or not those before have been answered. See `_watched`."""
    return await _watched(client, bodies, warm_s, seconds, seed, rate_per_s=rate_per_s)


async def _watched(
    client: httpx.AsyncClient,
    bodies: Sequence[Job],
    warm_s: float,
    seconds: float,
    seed: int,
    *,
    clients: int = 0,
    rate_per_s: float = 0.0,
) -> dict[str, Any]:
    """Ask random bodies for a while; what ends within the last `seconds` of it counts.

    Returns:
        `answered` and their `tokens`, `refused` (one `[latency_ms, has_retry_after]` each), `others` (anything else).
    """
    chance = random.Random(seed)  # noqa: S311  (no secret)
    begin_s = time.perf_counter() + warm_s
    end_s = begin_s + seconds
    found: dict[str, Any] = {"answered": 0, "tokens": 0, "refused": [], "others": []}

    async def ask() -> None:
        asked_s = time.perf_counter()
        try:
            response = await client.post("/generate", json=chance.choice(bodies))
        except httpx.TransportError as error:
            found["others"].append(repr(error))
            return
        now_s = time.perf_counter()
        if not begin_s <= now_s < end_s:
            return
        if response.status_code == httpx.codes.OK:
            found["answered"] += 1
            found["tokens"] += response.json()["usage"]["completion_tokens"]
        elif response.status_code == _TOO_MANY:
            found["refused"].append([1e3 * (now_s - asked_s), response.headers.get("Retry-After", "").isdigit()])
        else:
            found["others"].append(response.text[:200])

    async def ask_again() -> None:
        while time.perf_counter() < end_s:
            await ask()

    asking = {asyncio.create_task(ask_again()) for _ in range(clients)}
    due_s = time.perf_counter()
    while rate_per_s and (due_s := due_s + chance.expovariate(rate_per_s)) < end_s:
        await asyncio.sleep(due_s - time.perf_counter())
        asking.add(task := asyncio.create_task(ask()))
        task.add_done_callback(asking.discard)
    await asyncio.sleep(end_s - time.perf_counter())
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    return found


KINDS: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {"streams": streams, "closed": closed, "opened": opened}


def _last_event(raw: bytes) -> Job:
    name, _, data = raw.decode().rstrip().rpartition("\n\n")[2].partition("\n")
    if name != "event: done":
        raise EngineError(f"a stream ended in {raw[-200:]!r}")
    return json.loads(data.removeprefix("data: "))


async def _run(job: Job) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=job.pop("url"), timeout=600, limits=limits, trust_env=False) as client:
        return await KINDS[job.pop("kind")](client, **job)


def main() -> None:
    """Run the job of standard input."""
    job = json.load(sys.stdin)
    if cores := job.pop("cores"):
        os.sched_setaffinity(0, cores)
    json.dump(asyncio.run(_run(job)), sys.stdout)


if __name__ == "__main__":
    main()
