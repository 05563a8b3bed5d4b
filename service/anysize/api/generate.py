"""`POST /generate`: a request from its JSON to its answer."""

import asyncio
import uuid
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from anysize.api.answer import GenerateOut
from anysize.api.events import EventStream
from anysize.api.leaving import cancelled_on_disconnect
from anysize.api.schemas import ErrorOut, GenerateIn
from anysize.api.state import Service, ServiceState
from anysize.engine.request import Completion, GenerationRequest
from anysize.errors import AnysizeError
from anysize.family.family import Size
from anysize.sizing.budget import choose

router = APIRouter()

_ERRORS: dict[int | str, dict[str, Any]] = {
    413: {"model": ErrorOut, "description": "the body is too large"},
    422: {"model": ErrorOut, "description": "the request can never be answered"},
    429: {"model": ErrorOut, "description": "too many requests wait; see Retry-After"},
    500: {"model": ErrorOut, "description": "an unexpected error"},
    503: {"model": ErrorOut, "description": "the model failed, or the service is stopping"},
}
_EVENTS = {"description": "the answer", "content": {"text/event-stream": {"schema": {"type": "string"}}}}


@router.post(
    "/generate",
    summary="Generate text with the size a budget allows",
    response_model=GenerateOut,
    response_model_exclude_unset=True,
    responses=_ERRORS | {200: _EVENTS},
)
async def generate(body: GenerateIn, http: Request, service: Service) -> GenerateOut | Response:
    """Answer a prompt with the largest served size inside the budget; without one, with the teacher.

    With `stream`, the answer comes as server-sent events: `text` for each piece, then `done` with what the plain
    answer holds, or `error`.
    """
    try:
        size = _size(body, service)
        # A full queue refuses before anybody pays for a tokenizer.
        service.engine.check_room()
        request = GenerationRequest(
            id=f"gen-{uuid.uuid4().hex}",
            # Tokenizing a long prompt takes long enough to hold up everybody else's event loop.
            prompt_ids=await run_in_threadpool(service.encoder.encode, body),
            size=size,
            sampling=body.sampling(),
            samples=body.n,
        )
        if body.stream:
            return EventStream(
                service.engine,
                request,
                service.texts,
                service.settings.write_timeout_s,
                partial(_count, service, request),
            )
        async with cancelled_on_disconnect(http.receive, request):
            completion = await asyncio.wrap_future(service.engine.submit(request))
    except AnysizeError as error:
        service.metrics.failed(error)
        raise
    service.metrics.finished(request, completion)
    return GenerateOut.of(request, completion, service.texts)


def _count(service: ServiceState, request: GenerationRequest, outcome: Completion | AnysizeError) -> None:
    if isinstance(outcome, AnysizeError):
        service.metrics.failed(outcome)
    else:
        service.metrics.finished(request, outcome)


def _size(body: GenerateIn, service: ServiceState) -> Size:
    if body.variant is not None:
        return service.family.find(body.variant)
    if body.budget is None:
        return service.family.teacher
    return choose(service.family.ladder, body.budget.parsed())
