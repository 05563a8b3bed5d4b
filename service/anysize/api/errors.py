"""Errors over HTTP: one shape, one table of codes."""

import logging
import traceback

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from anysize.api.record import REQUEST_ID
from anysize.api.schemas import ErrorDetail, ErrorOut
from anysize.errors import (
    AnysizeError,
    BudgetError,
    BusyError,
    CalibrationError,
    EngineError,
    OverloadedError,
    RequestError,
    VariantError,
)

logger = logging.getLogger(__name__)

_MAX_FIELD = 200
# Parts of a pydantic location that a client never wrote.
_NO_FIELDS = frozenset({"body", "constrained-str", "list[constrained-str]"})
_HTTP_KINDS = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}

STATUS: dict[type[AnysizeError], tuple[int, str]] = {
    BudgetError: (422, "budget_too_small"),
    VariantError: (422, "unknown_variant"),
    RequestError: (422, "invalid_request"),
    CalibrationError: (422, "not_calibrated"),
    BusyError: (503, "budget_missed_under_load"),
    OverloadedError: (429, "overloaded"),
    EngineError: (503, "engine_unavailable"),
}


def install_error_handlers(app: FastAPI) -> None:
    """Give every error of the app the one shape."""
    app.add_exception_handler(AnysizeError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def error_response(
    status: int, kind: str, message: str, *, field: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error as JSON."""
    # A message may quote a request, and JSON can hold halves of characters that UTF-8 cannot.
    body = ErrorOut(
        error=ErrorDetail(type=kind, message=_sendable(message), field=field and _sendable(field)[:_MAX_FIELD])
    )
    return JSONResponse(body.model_dump(exclude_none=True), status_code=status, headers=headers)


def error_response_of(error: AnysizeError) -> JSONResponse:
    """The status, headers and JSON of an error that is meant for a user."""
    status, kind = _kind(error)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, OverloadedError) else None
    return error_response(status, kind, str(error), headers=headers)


def error_out(error: AnysizeError) -> ErrorOut:
    """Its JSON alone, for where the status has been sent already."""
    return ErrorOut(error=ErrorDetail(type=_kind(error)[1], message=_sendable(str(error))))


def _kind(error: AnysizeError) -> tuple[int, str]:
    return next((entry for cls, entry in STATUS.items() if isinstance(error, cls)), (500, "internal"))


async def _known(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AnysizeError)
    return error_response_of(error)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # A field of several types has an error for each; the deepest is of the type that was meant.
    field = error.errors()[0]["loc"][:2]
    first = max((one for one in error.errors() if one["loc"][:2] == field), key=lambda one: len(one["loc"]))
    where = [str(part) for part in first["loc"] if part not in _NO_FIELDS]
    if first["type"] == "json_invalid":
        return error_response(422, "invalid_json", f"the body is no JSON: {first['ctx']['error']}")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "this field is not known"
    return error_response(422, "invalid_request", message, field=".".join(where) or None)


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ValueError | RecursionError):  # FastAPI's answer to what `json.loads` raises
        return error_response(422, "invalid_json", "the body is no JSON: it is no UTF-8, nested too deeply or the like")
    kind = _HTTP_KINDS.get(error.status_code, "http_error")
    return error_response(error.status_code, kind, str(error.detail), headers=dict(error.headers or {}))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    # Neither the path nor the error's message: both may hold what the client wrote.
    frames = "".join(traceback.format_tb(error.__traceback__))
    request_id = request.scope.get(REQUEST_ID, "")
    logger.error("request %s failed with %s\n%s", request_id, type(error).__qualname__, frames.rstrip())
    headers = {REQUEST_ID: request_id} if request_id else None
    return error_response(500, "internal", "an unexpected error; the service log has the details", headers=headers)


def _sendable(text: str) -> str:
    return text.encode(errors="replace").decode()
