"""Errors over HTTP: one shape, one table of codes."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from anysize.api.schemas import ErrorDetail, ErrorOut
from anysize.errors import (
    AnysizeError,
    BudgetError,
    EngineError,
    OverloadedError,
    RequestError,
    VariantError,
)

logger = logging.getLogger(__name__)

STATUS: dict[type[AnysizeError], tuple[int, str]] = {
    BudgetError: (422, "budget_too_small"),
    VariantError: (422, "unknown_variant"),
    RequestError: (422, "invalid_request"),
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
    body = ErrorOut(error=ErrorDetail(type=kind, message=message, field=field))
    return JSONResponse(body.model_dump(exclude_none=True), status_code=status, headers=headers)


async def _known(_request: Request, error: Exception) -> JSONResponse:
    status, kind = next((entry for cls, entry in STATUS.items() if isinstance(error, cls)), (500, "internal"))
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, OverloadedError) else None
    return error_response(status, kind, str(error), headers=headers)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return error_response(422, "invalid_json", f"the body is no JSON: {first['ctx']['error']}")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "this field is not known"
    return error_response(422, "invalid_request", message, field=".".join(where) or None)


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, "http_error", str(error.detail), headers=dict(error.headers or {}))


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(500, "internal", "an unexpected error; the service log has the details")
