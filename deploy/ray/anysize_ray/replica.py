"""One service as a replica: the app that `anysize serve` runs, asked through Ray instead of a port."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from starlette.types import Message

from anysize.api.app import create_app
from anysize.commands.serve import load_calibration, load_family, load_kernels, load_model
from anysize.console import say
from anysize.errors import EngineError
from anysize.settings import load_settings


@serve.deployment(name="Anysize")
class Replica:
    """One service.

    Args:
        given: settings that were given, by their names.
        threads: of torch, where the settings leave them open.
    """

    async def __init__(self, given: dict[str, Any], threads: int) -> None:
        settings = load_settings(**{"threads": threads, **given})
        kernels = load_kernels(settings, say)
        family = load_family(settings, say)
        calibration = load_calibration(settings, family, kernels, say)
        self._places = settings.max_running_requests
        self._model = load_model(settings, family, kernels)
        self._app = create_app(settings, family, self._model, calibration)
        self._engine = self._app.state.service.engine
        self._life = self._app.router.lifespan_context(self._app)
        await self._life.__aenter__()

    async def answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[Message]:
        """The app's answer to one request, in ASGI messages as they come.

        Args:
            scope: of ASGI, without what only a server knows.
            body: of the request, whole.
        """
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        has_left = asyncio.Event()
        unread = [body]

        async def receive() -> Message:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await has_left.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._app({**scope, "app": self._app}, receive, messages.put)
            finally:
                messages.put_nowait(None)

        running = asyncio.create_task(run())
        try:
            while (message := await messages.get()) is not None:
                yield message
            await running
        finally:
            # Whoever ends this early has lost the client: the engine takes its request out at the next step.
            has_left.set()

    def check_health(self) -> None:
        """Ray's question whether the replica has to be replaced.

        Raises:
            EngineError: its engine is dead, or stuck in a step.
        """
        state = self._engine.state()
        if not state.draining and (not state.alive or state.stuck):
            raise EngineError("the engine is stuck" if state.stuck else "the engine has died")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `replicas_for_load` reads."""
        state = self._engine.state()
        return {
            "demand": (state.running + state.waiting) / self._places,
            "kv": self._model.used_pages / self._model.total_pages,
        }

    async def __del__(self) -> None:
        """Ray's way to end a replica; requests under way are answered first."""
        await self._life.__aexit__(None, None, None)
