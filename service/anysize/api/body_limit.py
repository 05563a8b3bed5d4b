"""A limit on request bodies that holds while they arrive, whatever their headers say."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anysize.api.errors import error_response


class BodyTooLargeError(Exception):
    """More bytes came than a body may have."""


class BodyLimit:
    """ASGI middleware that answers 413 once a body is larger than `max_bytes`.

    Args:
        app: the app behind it.
        max_bytes: of one body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        seen = 0
        started = False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise BodyTooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except BodyTooLargeError:
            if started:
                raise
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"the body is larger than the {self._max_bytes} bytes that this service allows"
        response = error_response(413, "body_too_large", message, headers={"Connection": "close"})
        await response(scope, receive, send)
