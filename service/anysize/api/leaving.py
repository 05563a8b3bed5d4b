"""Clients that leave before their answer is there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from anysize.engine.request import GenerationRequest


@asynccontextmanager
async def cancelled_on_disconnect(receive: Receive, request: GenerationRequest) -> AsyncIterator[None]:
    """Set the request's `cancelled` as soon as the client leaves, or whatever else ends the block early."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        request.cancelled.set()

    watching = asyncio.create_task(watch())
    try:
        yield
    except BaseException:
        request.cancelled.set()
        raise
    finally:
        watching.cancel()
