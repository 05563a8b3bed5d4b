"""From a request to its answer in OpenAI's words: what completions and chats have in common."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from anysize.api.answer import TokenTexts
from anysize.api.answering import Encoded, Prepared, Wanted, bounds, completed, prepare, streamed
from anysize.api.errors import error_response_of, openai_error_out
from anysize.api.events import event
from anysize.api.openai.answers import AnysizeOut, Head, OpenAIUsage
from anysize.api.openai.errors import PREFIX
from anysize.api.openai.models import named
from anysize.api.openai.options import Options
from anysize.api.state import ServiceState
from anysize.engine.request import Completion, Piece
from anysize.errors import AnysizeError

_DONE = event("[DONE]")

BodyT = TypeVar("BodyT", bound=Options)
ChoiceT = TypeVar("ChoiceT", bound=BaseModel)


class Writer(ABC, Generic[BodyT, ChoiceT]):
    """Words answers, whole or as a `Script`.

    Args:
        body: what was asked.
        head: of every chunk.
        prepared: what is answered.
        texts: of tokens, for logprobs.
    """

    def __init__(self, body: BodyT, head: Head, prepared: Sequence[Prepared], texts: TokenTexts) -> None:
        self._body = body
        self._head = head
        self._prepared = prepared
        self._texts = texts

    @abstractmethod
    def whole(self, completions: Sequence[Completion]) -> BaseModel:
        """The plain answer."""

    @abstractmethod
    def begun(self) -> bytes:
        """What comes before any text."""

    @abstractmethod
    def text(self, place: int, piece: Piece, /) -> bytes:
        """A chunk."""

    def done(self, completions: Sequence[Completion]) -> bytes:
        """Why each answer ended, the usage where it was asked for, and the end."""
        extras = AnysizeOut.of(self._prepared, completions)
        *others, last = self._ends(completions)
        chunks = [self._chunk(choice) for choice in others]
        if self._body.with_usage:
            usage = OpenAIUsage.of(self._prepared, completions)
            chunks += [self._chunk(last), self._chunk(usage=usage, anysize=extras)]
        else:
            chunks.append(self._chunk(last, anysize=extras))
        return joined(chunks) + _DONE

    def broken(self, error: AnysizeError) -> bytes:
        """The error's JSON as the last event."""
        return event(openai_error_out(error).model_dump_json())

    def refused(self, error: AnysizeError) -> Response:
        """The error as every other."""
        return error_response_of(error, PREFIX)

    @abstractmethod
    def _ends(self, completions: Sequence[Completion]) -> list[ChoiceT]:
        """The last part of each answer: why it ended."""

    @abstractmethod
    def _chunk(self, choice: ChoiceT | None = None, **more: Any) -> str:
        """The JSON of a chunk."""


async def answered(
    body: BodyT,
    http: Request,
    service: ServiceState,
    slo_ms: tuple[float | None, float | None],
    *,
    prefix: str,
    encode: Callable[[BodyT, ServiceState], Encoded],
    writer: Callable[[BodyT, Head, Sequence[Prepared], TokenTexts], Writer[BodyT, Any]],
) -> Any:
    """Answer a request, whole or streamed.

    Args:
        body: what was asked.
        http: the request, whose client may leave.
        service: that answers.
        slo_ms: the bounds that came as headers, to the first token and between tokens.
        prefix: of the answer's id.
        encode: makes token ids of the body's prompts.
        writer: words the answer.
    """
    variant, budget = named(service.family, body.model, bounds(body.budget, *slo_ms))
    wanted = Wanted(
        id=f"{prefix}-{uuid.uuid4().hex}",
        budget=budget,
        variant=variant,
        samples=body.samples,
        resize=bool(body.resize),
        encode=lambda: encode(body, service),
    )
    prepared = await prepare(service, wanted)
    script = writer(body, Head.of(wanted.id, service.family, prepared), prepared, service.texts)
    if body.stream:
        return streamed(service, prepared, script)
    return script.whole(await completed(service, http, prepared))


def joined(events: Sequence[str]) -> bytes:
    """Events without a name."""
    return b"".join(event(data) for data in events)
