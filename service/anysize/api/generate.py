"""`POST /generate`: a request from its JSON to its answer."""

import asyncio
import uuid
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from starlette.concurrency import run_in_threadpool

from anysize.api.answer import GenerateOut
from anysize.api.events import EventStream
from anysize.api.leaving import cancelled_on_disconnect
from anysize.api.schemas import ErrorOut, GenerateIn, Milliseconds
from anysize.api.state import Service, ServiceState
from anysize.engine.pace import Pace
from anysize.engine.request import Completion, GenerationRequest
from anysize.errors import AnysizeError, CalibrationError, RequestError
from anysize.family.family import Size
from anysize.sizing.budget import Budget, admitted
from anysize.sizing.load import Ask
from anysize.sizing.planner import Promise

router = APIRouter()

_ERRORS: dict[int | str, dict[str, Any]] = {
    413: {"model": ErrorOut, "description": "the body is too large"},
    422: {"model": ErrorOut, "description": "the request can never be answered"},
    429: {"model": ErrorOut, "description": "too many requests wait; see Retry-After"},
    500: {"model": ErrorOut, "description": "an unexpected error"},
    503: {
        "model": ErrorOut,
        "description": "the model failed, the service is stopping, or the load forbids a latency budget",
    },
}
_EVENTS = {"description": "the answer", "content": {"text/event-stream": {"schema": {"type": "string"}}}}


@router.post(
    "/generate",
    summary="Generate text with the size a budget allows",
    response_model=GenerateOut,
    response_model_exclude_unset=True,
    responses=_ERRORS | {200: _EVENTS},
)
async def generate(
    body: GenerateIn,
    http: Request,
    service: Service,
    x_slo_ttft_ms: Annotated[Milliseconds | None, Header(description="as `budget.ttft_ms`")] = None,
    x_slo_tpot_ms: Annotated[Milliseconds | None, Header(description="as `budget.tpot_ms`")] = None,
) -> GenerateOut | Response:
    """Answer a prompt with the largest served size inside the budget; without one, with the teacher.

    Where a header and a field of the budget bound the same time, the smaller bound counts.

    With `stream`, the answer comes as server-sent events: `text` for each piece, then `done` with what the plain
    answer holds, or `error`.
    """
    try:
        budget = _budget(body, x_slo_ttft_ms, x_slo_tpot_ms)
        sizes = _sizes(body, budget, service)
        # A full queue refuses before anybody pays for a tokenizer.
        service.engine.check_room()
        # Tokenizing a long prompt takes long enough to hold up everybody else's event loop; so may looking ahead.
        prompt_ids = await run_in_threadpool(service.encoder.encode, body)
        promise = await run_in_threadpool(_promise, body, budget, len(prompt_ids), service) if budget.is_timed else None
        size = promise.size if promise else sizes[-1]
        request = GenerationRequest(
            id=f"gen-{uuid.uuid4().hex}",
            prompt_ids=prompt_ids,
            size=size,
            sampling=body.sampling(),
            samples=body.n,
            allowed=_allowed(body, budget, sizes, size),
            is_resizable=body.resize,
            pace=Pace(budget.tpot_ms, budget.total_ms),
        )
        if body.stream:
            return EventStream(
                service.engine,
                request,
                service.texts,
                service.settings.write_timeout_s,
                promise,
                partial(_count, service, request, promise),
            )
        async with cancelled_on_disconnect(http.receive, request):
            completion = await asyncio.wrap_future(service.engine.submit(request))
    except AnysizeError as error:
        service.metrics.failed(error)
        raise
    service.metrics.finished(request, completion, promise)
    return GenerateOut.of(request, completion, service.texts, promise)


def _count(
    service: ServiceState, request: GenerationRequest, promise: Promise | None, outcome: Completion | AnysizeError
) -> None:
    if isinstance(outcome, AnysizeError):
        service.metrics.failed(outcome)
    else:
        service.metrics.finished(request, outcome, promise)


def _budget(body: GenerateIn, ttft_ms: float | None, tpot_ms: float | None) -> Budget:
    """The bounds of the body and of the headers together."""
    budget = body.budget.parsed() if body.budget else Budget()
    return replace(
        budget,
        ttft_ms=min((ms for ms in (budget.ttft_ms, ttft_ms) if ms is not None), default=None),
        tpot_ms=min((ms for ms in (budget.tpot_ms, tpot_ms) if ms is not None), default=None),
    )


def _sizes(body: GenerateIn, budget: Budget, service: ServiceState) -> list[Size]:
    """The sizes that may answer a request, smallest first; bounds of time have their say later."""
    if budget.is_timed and body.variant is not None:
        raise RequestError("give either variant or a latency budget, not both; x-slo headers are such a budget")
    if budget.is_timed and service.planner is None:
        raise CalibrationError(
            "this service cannot keep a latency budget, because it has not been calibrated on this machine: run "
            "`anysize calibrate` with the service's settings once, and start it again"
        )
    if body.variant is not None:
        return [service.family.find(body.variant)]
    if body.budget is None and not budget.is_timed and not body.resize:
        return [service.family.teacher]
    return admitted(service.family.ladder, budget)


def _allowed(body: GenerateIn, budget: Budget, sizes: list[Size], wanted: Size) -> tuple[Size, ...]:
    """Those of them that may take the place of the wanted one."""
    if body.resize:
        return tuple(sizes)
    return tuple(sizes[: sizes.index(wanted) + 1]) if budget.min_parameters is not None else (wanted,)


def _promise(body: GenerateIn, budget: Budget, prompt_tokens: int, service: ServiceState) -> Promise:
    assert service.planner is not None
    ask = Ask(prompt_tokens, body.max_tokens, body.n)
    return service.planner.promise(service.family.ladder, budget, ask, service.engine.load())
