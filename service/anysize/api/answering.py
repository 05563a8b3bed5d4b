"""From what a request asks for to its answers: the way of every route, however it words either."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from threading import Event
from typing import Annotated

from fastapi import Header, Request

from anysize.api.events import EventStream, Script
from anysize.api.leaving import cancelled_on_disconnect
from anysize.api.schemas import BudgetIn, Milliseconds
from anysize.api.state import ServiceState
from anysize.engine.grammar import Grammar
from anysize.engine.pace import Pace
from anysize.engine.request import Completion, GenerationRequest, Sampling
from anysize.errors import AnysizeError, CalibrationError, RequestError
from anysize.family.family import Size
from anysize.sizing.budget import Budget, admitted, stand_ins
from anysize.sizing.load import Ask
from anysize.sizing.planner import Promise

TtftHeader = Annotated[Milliseconds | None, Header(alias="x-slo-ttft-ms", description="as `budget.ttft_ms`")]
TpotHeader = Annotated[Milliseconds | None, Header(alias="x-slo-tpot-ms", description="as `budget.tpot_ms`")]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the engine needs of a request beside its size.

    Attributes:
        prompts: token ids, at least one prompt of at least one token.
        sampling: how tokens are picked, for each of them.
        grammar: that the answers must follow, if any.
    """

    prompts: list[list[int]]
    sampling: Sampling
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a request asks for.

    Attributes:
        id: of the answer.
        budget: bounds of body and headers together; None where there are none.
        variant: instead of a budget, the id of the size that must answer.
        samples: answers to each prompt.
        encode: makes token ids of its prompts; takes its time, and is called off the event loop.
        resize: whether the answer may change its size once it is under way.
    """

    id: str
    budget: Budget | None
    variant: str | None
    samples: int
    encode: Callable[[], Encoded]
    resize: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt that is ready for the engine, and what its latency budget was promised, if it has one."""

    request: GenerationRequest
    promise: Promise | None


def bounds(given: BudgetIn | None, ttft_ms: float | None, tpot_ms: float | None) -> Budget | None:
    """The bounds of a body and of its headers together; where both bound the same time, the smaller counts."""
    if given is None and ttft_ms is None and tpot_ms is None:
        return None
    budget = given.parsed() if given else Budget()
    return replace(
        budget,
        ttft_ms=min((ms for ms in (budget.ttft_ms, ttft_ms) if ms is not None), default=None),
        tpot_ms=min((ms for ms in (budget.tpot_ms, tpot_ms) if ms is not None), default=None),
    )


async def prepare(service: ServiceState, wanted: Wanted) -> list[Prepared]:
    """Choose the size that answers, and make token ids of the prompts; they share one `cancelled`.

    Raises:
        AnysizeError: the request can never be answered, or not now. It has been counted.
    """
    try:
        sizes = _sizes(wanted, service)
        # A full queue refuses before anybody pays for a tokenizer.
        service.engine.check_room()
        # Tokenizing a long prompt takes long enough to hold up everybody else's event loop; so may looking ahead.
        encoded, promise = await service.readers.run(_encoded_and_promised, wanted, service)
    except AnysizeError as error:
        service.metrics.failed(error)
        raise
    cancelled = Event()
    several = len(encoded.prompts) > 1
    budget, size = wanted.budget or Budget(), promise.size if promise else sizes[-1]
    return [
        Prepared(
            GenerationRequest(
                id=f"{wanted.id}-{place}" if several else wanted.id,
                prompt_ids=prompt_ids,
                size=size,
                sampling=encoded.sampling,
                samples=wanted.samples,
                allowed=tuple(sizes) if wanted.resize else stand_ins(sizes, size, budget),
                is_resizable=wanted.resize,
                pace=Pace(budget.tpot_ms, budget.total_ms),
                grammar=encoded.grammar,
                cancelled=cancelled,
            ),
            promise,
        )
        for place, prompt_ids in enumerate(encoded.prompts)
    ]


async def completed(service: ServiceState, http: Request, prepared: Sequence[Prepared]) -> list[Completion]:
    """Have prompts answered, side by side; a client that leaves cancels them.

    Raises:
        AnysizeError: the engine refuses one of them, or fails. It has been counted, and the others are cancelled.
    """
    cancelled = prepared[0].request.cancelled

    def ended(future: "Future[Completion]") -> None:
        if future.cancelled() or future.exception() is not None:
            cancelled.set()

    try:
        async with cancelled_on_disconnect(http.receive, prepared[0].request):
            futures = [service.engine.submit(one.request) for one in prepared]
            for future in futures:
                future.add_done_callback(ended)
            outcomes = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
            completions = [_or_raise(outcome) for outcome in outcomes]
    except AnysizeError as error:
        service.metrics.failed(error)
        raise
    for one, completion in zip(prepared, completions, strict=True):
        _answered(service, one, completion)
    return completions


def streamed(service: ServiceState, prepared: Sequence[Prepared], script: Script) -> EventStream:
    """Have prompts answered as server-sent events.

    Raises:
        AnysizeError: the engine refuses one of them. It has been counted, and the others are cancelled.
    """

    def ended(place: int, outcome: Completion | AnysizeError) -> None:
        if isinstance(outcome, AnysizeError):
            service.metrics.failed(outcome)
        else:
            _answered(service, prepared[place], outcome)

    requests = [one.request for one in prepared]
    try:
        return EventStream(service.engine, requests, script, service.settings.write_timeout_s, ended)
    except AnysizeError as error:
        service.metrics.failed(error)
        raise


def _answered(service: ServiceState, one: Prepared, completion: Completion) -> None:
    service.metrics.finished(one.request, completion, one.promise)
    if service.planner is not None and completion.finish_reason != "cancelled":
        for choice in completion.choices:
            service.planner.answered(tokens=len(choice.token_ids), most=one.request.sampling.max_tokens)


def _or_raise(outcome: Completion | BaseException) -> Completion:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _sizes(wanted: Wanted, service: ServiceState) -> list[Size]:
    """The sizes that may answer a request, smallest first; bounds of time have their say later."""
    budget = wanted.budget
    if budget is not None and wanted.variant is not None:
        raise RequestError("give either variant or a latency budget, not both; x-slo headers are such a budget")
    if wanted.resize and wanted.variant is not None:
        raise RequestError("resize needs several sizes: name no variant")
    if budget is not None and budget.is_timed and service.planner is None:
        raise CalibrationError(
            "this service cannot keep a latency budget, because it has not been calibrated on this machine: run "
            "`anysize calibrate` with the service's settings once, and start it again"
        )
    if wanted.variant is not None:
        return [service.family.find(wanted.variant)]
    if budget is None and not wanted.resize:
        return [service.family.teacher]
    return admitted(service.family.ladder, budget or Budget())


def _encoded_and_promised(wanted: Wanted, service: ServiceState) -> tuple[Encoded, Promise | None]:
    encoded, budget, planner = wanted.encode(), wanted.budget, service.planner
    if planner is None:
        return encoded, None
    asks = [Ask(len(prompt_ids), encoded.sampling.max_tokens, wanted.samples) for prompt_ids in encoded.prompts]
    load = service.engine.load()
    for ask in asks:
        planner.arrived(ask, load, time.monotonic())
    if budget is None or not budget.is_timed:
        return encoded, None
    if len(asks) > 1:
        raise RequestError("a latency budget is of one prompt; send each prompt as a request of its own")
    return encoded, planner.promise(service.family.ladder, budget, asks[0], load)
