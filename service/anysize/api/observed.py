"""Middleware that gives each request an id and tells metrics, log and trace how it went."""

import logging
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anysize.api.http_metrics import HttpMetrics
from anysize.api.record import REQUEST_ID, Record, current

if TYPE_CHECKING:
    from anysize.api.tracing import Tracing

logger = logging.getLogger("anysize.requests")

# Asked every few seconds by machines; logged at debug level, and not traced.
_PROBES = frozenset({"/health", "/ready", "/metrics"})


class Observed:
    """The outermost of the app's own middleware.

    Args:
        app: the app behind it.
        metrics: counts each request.
        tracing: sends a span for each, where traces are wanted.
    """

    def __init__(self, app: ASGIApp, metrics: HttpMetrics, tracing: "Tracing | None") -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and report it once its response is out."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record.of(scope)
        scope[REQUEST_ID] = record.request_id

        async def identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = [*message.get("headers", ()), (REQUEST_ID.encode(), record.request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        token = current.set(record)
        try:
            await self._app(scope, receive, identified)
        except Exception as error:
            # Whoever stands further out answers 500.
            record.status, record.error = 500, type(error).__name__
            raise
        finally:
            current.reset(token)
            self._report(record, scope)

    def _report(self, record: Record, scope: Scope) -> None:
        record.finish(scope)
        self._metrics.served(record)
        is_probe = record.route in _PROBES
        fields = record.fields()
        if self._tracing is not None and not is_probe:
            fields["trace_id"] = self._tracing.report(record, scope)
        level = logging.DEBUG if is_probe and record.status < 500 else logging.INFO
        logger.log(level, "request", extra={"fields": fields})
