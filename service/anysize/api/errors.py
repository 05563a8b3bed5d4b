"""Errors over HTTP: one table of codes, and one shape, but for the routes under `/v1`, which have OpenAI's."""

import logging
import traceback
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from anysize.api.openai.errors import PREFIX, OpenAIErrorOut, in_openai_shape
from anysize.api.record import REQUEST_ID
from anysize.api.schemas import ErrorDetail, ErrorOut
from anysize.errors import (
    AccessError,
    AnysizeError,
    BudgetError,
    BusyError,
    CalibrationError,
    EngineError,
    ModelNameError,
    OverloadedError,
    RateLimitError,
    RequestError,
    VariantError,
)

logger = logging.getLogger(__name__)

_MAX_FIELD = 200
_HTTP_KINDS = {404: "not_found", 405: "method_not_allowed", 408: "body_too_slow", 413: "body_too_large"}

STATUS: dict[type[AnysizeError], tuple[int, str]] = {
    AccessError: (401, "invalid_api_key"),
    BudgetError: (422, "budget_too_small"),
    VariantError: (422, "unknown_variant"),
    ModelNameError: (404, "model_not_found"),
    RequestError: (422, "invalid_request"),
    CalibrationError: (422, "not_calibrated"),
    BusyError: (503, "budget_missed_under_load"),
    RateLimitError: (429, "rate_limit_exceeded"),
    OverloadedError: (429, "overloaded"),
    EngineError: (503, "engine_unavailable"),
}

NO_MEMORY = EngineError("there was not enough memory to answer this request; ask again, or for less")


def install_error_handlers(app: FastAPI) -> None:
    """Give every error of the app the one shape."""
    app.add_exception_handler(AnysizeError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(MemoryError, _no_memory)
    app.add_exception_handler(Exception, _unexpected)


def error_response(
    path: str,
    status: int,
    kind: str,
    message: str,
    *,
    field: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error as JSON, in the shape that belongs to a path."""
    # A message may quote a request, and JSON can hold halves of characters that UTF-8 cannot.
    message, field = _sendable(message), field and _sendable(field)[:_MAX_FIELD]
    if path.startswith(PREFIX):
        status, shaped = in_openai_shape(status, kind, message, field)
        return JSONResponse(shaped.model_dump(), status_code=status, headers=headers)
    body = ErrorOut(error=ErrorDetail(type=kind, message=message, field=field))
    return JSONResponse(body.model_dump(exclude_none=True), status_code=status, headers=headers)


def error_response_of(error: AnysizeError, path: str) -> JSONResponse:
    """The status, headers and JSON of an error that is meant for a user."""
    status, kind = _kind(error)
    return error_response(path, status, kind, str(error), field=_field(error), headers=_headers(error))


def error_out(error: AnysizeError) -> ErrorOut:
    """Its JSON alone, for where the status has been sent already."""
    return ErrorOut(error=ErrorDetail(type=_kind(error)[1], message=_sendable(str(error))))


def openai_error_out(error: AnysizeError) -> OpenAIErrorOut:
    """The same in OpenAI's shape."""
    return in_openai_shape(*_kind(error), _sendable(str(error)), _field(error))[1]


def _kind(error: AnysizeError) -> tuple[int, str]:
    return next((entry for cls, entry in STATUS.items() if isinstance(error, cls)), (500, "internal"))


def _headers(error: AnysizeError) -> Mapping[str, str] | None:
    if isinstance(error, OverloadedError):
        return {"Retry-After": str(error.retry_after_s)}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, AccessError) else None


def _field(error: AnysizeError) -> str | None:
    return error.field if isinstance(error, RequestError) else None


async def _known(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AnysizeError)
    return error_response_of(error, request.scope["path"])


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # A field of several types has an error for each; the deepest is of the type that was meant.
    field = error.errors()[0]["loc"][:2]
    first = max((one for one in error.errors() if one["loc"][:2] == field), key=lambda one: len(one["loc"]))
    path = request.scope["path"]
    if first["type"] == "json_invalid":
        return error_response(path, 422, "invalid_json", f"the body is no JSON: {first['ctx']['error']}")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "this field is not known"
    return error_response(path, 422, "invalid_request", message, field=".".join(_place(first, error.body)) or None)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, MemoryError):  # FastAPI's answer to what reading the body raises
        return _short_of_memory(request)
    if isinstance(error.__cause__, ValueError | RecursionError):  # and to what `json.loads` raises
        message = "the body is no JSON: it is no UTF-8, nested too deeply or the like"
        return error_response(request.scope["path"], 422, "invalid_json", message)
    kind = _HTTP_KINDS.get(error.status_code, "http_error")
    return error_response(request.scope["path"], error.status_code, kind, str(error.detail), headers=error.headers)


async def _no_memory(request: Request, _error: Exception) -> JSONResponse:
    return _short_of_memory(request)


def _short_of_memory(request: Request) -> JSONResponse:
    logger.error("request %s: not enough memory", request.scope.get(REQUEST_ID, ""))
    return error_response_of(NO_MEMORY, request.scope["path"])


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, MemoryError):  # further out than where these are answered otherwise
        return _short_of_memory(request)
    # Neither the path nor the error's message: both may hold what the client wrote.
    frames = "".join(traceback.format_tb(error.__traceback__))
    request_id = request.scope.get(REQUEST_ID, "")
    logger.error("request %s failed with %s\n%s", request_id, type(error).__qualname__, frames.rstrip())
    headers = {REQUEST_ID: request_id} if request_id else None
    message = "an unexpected error; the service log has the details"
    return error_response(request.scope["path"], 500, "internal", message, headers=headers)


def _place(error: dict[str, Any], body: Any) -> list[str]:
    """Where in a request an error is, without the parts of pydantic's location that name a type and no field."""
    where, *parts = error["loc"]
    if where != "body":
        return [str(part) for part in error["loc"]]
    kept: list[str] = []
    for place, part in enumerate(parts, start=1):
        is_key = isinstance(body, dict) and part in body
        is_index = isinstance(body, list) and isinstance(part, int) and part < len(body)
        if is_key or is_index:
            body = body[part]
        if is_key or is_index or (error["type"] == "missing" and place == len(parts)):
            kept.append(str(part))
    return kept


def _sendable(text: str) -> str:
    return text.encode(errors="replace").decode()
