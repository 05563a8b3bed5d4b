"""Limits on request bodies that hold while they arrive, whatever their headers say."""

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anysize.api.errors import error_response

_LINGER_S = 2.0


class BodyLimit:
    """ASGI middleware that answers 413 once a body is larger than allowed, 408 to a slow and 415 to a compressed one.

    A body with two lengths gets a 400: whoever stands between may have counted by the other one, and so taken what one
    client smuggles behind it for the next client's request.

    Args:
        app: the app behind it.
        max_bytes: of one body.
        timeout_s: for one body to arrive, from when it is first waited for.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        too_large = f"the body is larger than the {self._max_bytes} bytes that this service allows"
        if "content-length" in headers and "transfer-encoding" in headers:
            message = "a body has one length; send Content-Length or Transfer-Encoding, not both"
            await _refuse(error_response(scope["path"], 400, "ambiguous_length", message), receive, send)
            return
        encoding = headers.get("content-encoding", "identity")
        if encoding.strip().lower() != "identity":
            message = "compressed bodies are not read; send the JSON as it is, without Content-Encoding"
            await _refuse(error_response(scope["path"], 415, "unsupported_encoding", message), receive, send)
            return
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await _refuse(error_response(scope["path"], 413, "body_too_large", too_large), receive, send)
            return
        seen, is_whole = 0, False
        end_s: float | None = None

        async def counted() -> Message:
            nonlocal seen, is_whole, end_s
            if is_whole:
                return await receive()
            if end_s is None:
                end_s = asyncio.get_running_loop().time() + self._timeout_s
            try:
                async with asyncio.timeout_at(end_s):
                    message = await receive()
            except TimeoutError as error:
                late = f"the body did not arrive within the {self._timeout_s:g} s that this service allows"
                raise HTTPException(408, late, headers={"Connection": "close"}) from error
            seen += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if seen > self._max_bytes:
                await _drain(receive)
                # An HTTPException passes through FastAPI's own reading of the body, any other becomes a 400.
                raise HTTPException(413, too_large, headers={"Connection": "close"})
            return message

        await self._app(scope, counted, send)


async def _refuse(response: Response, receive: Receive, send: Send) -> None:
    response.headers["Connection"] = "close"
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    await _drain(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive) -> None:
    """Throw away what is still coming, for a moment.

    Closing a connection with unread bytes resets it, and many a client would lose the answer.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while (await receive()).get("more_body", False):
                pass
