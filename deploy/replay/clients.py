"""The clients of a service that is being stopped."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

_LIMIT_S = 300


def wait_until_ready(url: str, has_ended: Callable[[], bool], within_s: float) -> bool:
    """Whether a service says within some seconds that it takes requests."""

    async def wait() -> bool:
        async with _client(url) as client:
            for _ in range(int(within_s / 0.25)):
                try:
                    if (await client.get("/ready")).status_code == 200:
                        return True
                except httpx.TransportError:
                    if has_ended():
                        return False
                await asyncio.sleep(0.25)
        return False

    return asyncio.run(wait())


def generate(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    with httpx.Client(base_url=url, timeout=_LIMIT_S, trust_env=False) as client:
        return client.post("/generate", json=body).raise_for_status().json()


def streams_through_stop(url: str, bodies: list[dict[str, Any]], stop: Callable[[], None]) -> list[str]:
    """Stream the answers to all bodies at once, and stop the service once all are under way.

    Args:
        url: of the service.
        bodies: of the requests.
        stop: returns once the service has ended; runs in a thread of its own.

    Returns:
        The name of the last event of each answer, or of what ended it otherwise.

    Raises:
        TimeoutError: they were never under way together.
    """

    async def read(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
        last = "nothing"
        try:
            async with client.stream("POST", "/generate", json={**body, "stream": True}) as response:
                if response.status_code != 200:
                    return f"status {response.status_code}"
                async for line in response.aiter_lines():
                    if line.startswith("event: "):
                        last = line.removeprefix("event: ")
                    elif last == "done" and line.startswith("data: "):
                        tokens = json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
                        last = "done" if tokens else "empty"
        except httpx.TransportError as error:
            return type(error).__name__
        return last

    async def run() -> list[str]:
        async with _client(url) as client, _client(url) as observer:
            reading = [asyncio.create_task(read(client, body)) for body in bodies]
            await asyncio.wait_for(_all_under_way(observer, len(bodies)), 60)
            await asyncio.to_thread(stop)
            return await asyncio.gather(*reading)

    return asyncio.run(run())


async def _all_under_way(observer: httpx.AsyncClient, count: int) -> None:
    while True:
        health = (await observer.get("/health")).json()
        if health["waiting"] + health["running"] == count:
            return
        await asyncio.sleep(0.02)


def _client(url: str) -> httpx.AsyncClient:
    unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=_LIMIT_S, limits=unlimited, trust_env=False)
