"""Where requests come in: passes each on to a replica, and gives it an end if that replica dies.

Nothing has been sent before an answer's first bytes, so until then another replica can take the request. A stream that
has begun ends with an error event.
"""

from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send

from anysize.api.body_limit import BodyLimit
from anysize.api.errors import error_out, error_response_of, openai_error_out
from anysize.api.events import event
from anysize.api.openai.errors import PREFIX
from anysize.errors import AnysizeError, EngineError, OverloadedError

_TRIES = 3
_SCOPE = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers", "client")


@serve.deployment(name="Door")
@serve.ingress()
class Door:
    """Passes requests on.

    Args:
        replicas: to which.
        max_body_bytes: of a request.
        body_timeout_s: for it to arrive.
    """

    def __init__(self, replicas: DeploymentHandle, max_body_bytes: int, body_timeout_s: float) -> None:
        self._answers = replicas.options(method_name="answer", stream=True)
        self._limits = {"max_bytes": max_body_bytes, "timeout_s": body_timeout_s}

    def __serve_build_asgi_app__(self) -> Starlette:
        limit = Middleware(BodyLimit, **self._limits)  # pyright: ignore[reportArgumentType]
        return Starlette(routes=[Mount("/", app=self._pass_on)], middleware=[limit])

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        asked: dict[str, Any] = {name: scope[name] for name in _SCOPE if name in scope}
        asked["root_path"] = ""
        reply = _Reply(send)
        error: AnysizeError = EngineError("the replica that had this request died, and so did those that took it over")
        for _ in range(_TRIES):
            try:
                async for message in self._answers.remote(asked, body):
                    await reply.send(message)
            except RayActorError:
                if not reply.is_begun:
                    continue
                error = EngineError("the replica that gave this answer has died; ask again")
                await reply.end(error, scope["path"])
            except BackPressureError:
                error = OverloadedError("every replica has as many requests as it takes; try again later", 1)
                break
            except DeploymentUnavailableError:
                error = EngineError("there is no replica; more are being started")
                break
            return
        await error_response_of(error, scope["path"])(scope, receive, send)


class _Reply:
    """What goes back to one client; nothing before there are bytes of a body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._is_stream = False
        self.is_begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            self._is_stream = (b"content-type", b"text/event-stream; charset=utf-8") in message["headers"]
            return
        if not self.is_begun and self._start is not None:
            self.is_begun = True
            await self._send(self._start)
        await self._send(message)

    async def end(self, error: AnysizeError, path: str) -> None:
        """The last word after a replica died.

        Raises:
            AnysizeError: the answer is no stream of events and is cut off, which its client sees.
        """
        if not self._is_stream:
            raise error
        if path.startswith(PREFIX):
            last = event(openai_error_out(error).model_dump_json())
        else:
            last = event(error_out(error).model_dump_json(exclude_none=True), "error")
        await self._send({"type": "http.response.body", "body": last, "more_body": False})
