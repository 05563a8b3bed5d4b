"""`POST /generate`: a request from its JSON to its answer."""

import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from anysize.api.access import AnswerRoute
from anysize.api.answer import GenerateOut, PieceOut, TokenTexts
from anysize.api.answering import (
    Encoded,
    Prepared,
    TpotHeader,
    TtftHeader,
    Wanted,
    bounds,
    completed,
    prepare,
    streamed,
)
from anysize.api.errors import error_out, error_response_of
from anysize.api.events import event
from anysize.api.schemas import ErrorOut, GenerateIn
from anysize.api.state import Service
from anysize.engine.request import Completion, Piece
from anysize.errors import AnysizeError

router = APIRouter(route_class=AnswerRoute)

_PATH = "/generate"
_ERRORS: dict[int | str, dict[str, Any]] = {
    408: {"model": ErrorOut, "description": "the body did not arrive in time"},
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
    _PATH,
    summary="Generate text with the size a budget allows",
    response_model=GenerateOut,
    response_model_exclude_unset=True,
    responses=_ERRORS | {200: _EVENTS},
)
async def generate(
    body: GenerateIn,
    http: Request,
    service: Service,
    x_slo_ttft_ms: TtftHeader = None,
    x_slo_tpot_ms: TpotHeader = None,
) -> GenerateOut | Response:
    """Answer a prompt with the largest served size inside the budget; without one, with the teacher.

    Where a header and a field of the budget bound the same time, the smaller bound counts.

    With `stream`, the answer comes as server-sent events: `text` for each piece, then `done` with what the plain
    answer holds, or `error`.
    """
    wanted = Wanted(
        id=f"gen-{uuid.uuid4().hex}",
        budget=bounds(body.budget, x_slo_ttft_ms, x_slo_tpot_ms),
        variant=body.variant,
        samples=body.n,
        resize=body.resize,
        encode=lambda: Encoded([service.encoder.encode(body)], body.sampling()),
    )
    prepared = await prepare(service, wanted)
    if body.stream:
        return streamed(service, prepared, GenerateEvents(prepared[0], service.texts))
    completions = await completed(service, http, prepared)
    return GenerateOut.of(prepared[0].request, completions[0], service.texts, prepared[0].promise)


class GenerateEvents:
    """An answer as `text` for each piece, then one `done` or `error`. A `Script`.

    Args:
        prepared: what is answered.
        texts: of tokens, for logprobs.
    """

    def __init__(self, prepared: Prepared, texts: TokenTexts) -> None:
        self._prepared = prepared
        self._texts = texts

    def begun(self) -> bytes:
        """Nothing."""
        return b""

    def text(self, _place: int, piece: Piece) -> bytes:
        """What is new."""
        return _event("text", PieceOut.of(self._prepared.request, piece, self._texts))

    def done(self, completions: Sequence[Completion]) -> bytes:
        """What the plain answer holds."""
        one = self._prepared
        return _event("done", GenerateOut.of(one.request, completions[0], self._texts, one.promise))

    def broken(self, error: AnysizeError) -> bytes:
        """The error's JSON."""
        return _event("error", error_out(error))

    def refused(self, error: AnysizeError) -> Response:
        """The error as every other."""
        return error_response_of(error, _PATH)


def _event(name: str, data: BaseModel) -> bytes:
    return event(data.model_dump_json(exclude_unset=True), name)
