"""`POST /v1/chat/completions`: a conversation, and its next message."""

import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Self

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from anysize.api.answer import TokenTexts
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
from anysize.api.openai.answers import AnysizeOut, Finish, Head, OpenAIUsage, finish_of, token_bytes
from anysize.api.openai.chat_request import ChatIn, ChatMessage
from anysize.api.openai.models import named
from anysize.api.openai.routes import DONE, ERRORS, EVENTS, ErrorEvents, joined
from anysize.api.state import Service, ServiceState
from anysize.engine.request import Completion, Pick, Piece

router = APIRouter()


class ChatTopLogprob(BaseModel):
    """A token and the logarithm of its probability; `bytes` is null for parts of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(ChatTopLogprob):
    """A token of the answer, and the likeliest in its place."""

    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(BaseModel):
    """Of each token of an answer."""

    content: list[ChatLogprob]
    refusal: None = None

    @classmethod
    def of(cls, picks: Sequence[Pick], texts: TokenTexts) -> Self:
        """From picked tokens whose logprobs were asked for."""

        def fields(token_id: int, logprob: float) -> dict[str, Any]:
            text = texts.of(token_id)
            return {"token": text, "logprob": logprob, "bytes": token_bytes(text)}

        return cls(
            content=[
                ChatLogprob(
                    **fields(pick.token_id, pick.logprob or 0.0),
                    top_logprobs=[ChatTopLogprob(**fields(one.token_id, one.logprob)) for one in pick.top],
                )
                for pick in picks
            ]
        )


class AnswerMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatOut(BaseModel):
    """The answer. `anysize` says which size gave it; OpenAI has no such field."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: OpenAIUsage
    anysize: AnysizeOut


class Delta(BaseModel):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """A part of one of the answers."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None


class ChatChunk(BaseModel):
    """A part of the answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: OpenAIUsage | None = None
    anysize: AnysizeOut | None = None


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    response_model=ChatOut,
    responses=ERRORS | {200: EVENTS},
)
async def chat(
    body: ChatIn,
    http: Request,
    service: Service,
    x_slo_ttft_ms: TtftHeader = None,
    x_slo_tpot_ms: TpotHeader = None,
) -> ChatOut | Response:
    """As OpenAI's, with `budget` beside it. Without `max_tokens` an answer may be as long as fits."""
    variant, budget = named(service.family, body.model, bounds(body.budget, x_slo_ttft_ms, x_slo_tpot_ms))
    wanted = Wanted(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        budget=budget,
        variant=variant,
        samples=body.samples,
        resize=bool(body.resize),
        encode=partial(_encoded, body, service),
    )
    prepared = await prepare(service, wanted)
    writer = ChatEvents(body, Head.of(wanted.id, service.family, prepared), prepared, service.texts)
    if body.stream:
        return streamed(service, prepared, writer)
    return writer.whole(await completed(service, http, prepared))


class ChatEvents(ErrorEvents):
    """Words the answers to a conversation, whole or as a `Script`.

    Args:
        body: what was asked.
        head: of every chunk.
        prepared: what is answered.
        texts: of tokens, for logprobs.
    """

    def __init__(self, body: ChatIn, head: Head, prepared: Sequence[Prepared], texts: TokenTexts) -> None:
        self._body = body
        self._head = head
        self._prepared = prepared
        self._texts = texts

    def whole(self, completions: Sequence[Completion]) -> ChatOut:
        """The plain answer."""
        choices = [
            ChatChoice(
                index=index,
                message=AnswerMessage(content=choice.text),
                logprobs=self._logprobs(choice.picks),
                finish_reason=finish_of(choice.finish_reason),
            )
            for index, choice in enumerate(completions[0].choices)
        ]
        return ChatOut(
            **self._head.fields(),
            choices=choices,
            usage=OpenAIUsage.of(self._prepared, completions),
            anysize=AnysizeOut.of(self._prepared, completions),
        )

    def begun(self) -> bytes:
        """Whose message it is."""
        deltas = [Delta(role="assistant", content="") for _ in range(self._body.samples)]
        return joined([self._chunk(ChunkChoice(index=index, delta=delta)) for index, delta in enumerate(deltas)])

    def text(self, _place: int, piece: Piece) -> bytes:
        """A chunk."""
        choice = ChunkChoice(index=piece.sample, delta=Delta(content=piece.text), logprobs=self._logprobs(piece.picks))
        return joined([self._chunk(choice)])

    def done(self, completions: Sequence[Completion]) -> bytes:
        """Why each answer ended, the usage where it was asked for, and the end."""
        extras = AnysizeOut.of(self._prepared, completions)
        last = [
            ChunkChoice(index=index, delta=Delta(), finish_reason=finish_of(choice.finish_reason))
            for index, choice in enumerate(completions[0].choices)
        ]
        chunks = [self._chunk(choice) for choice in last[:-1]]
        if self._body.with_usage:
            usage = OpenAIUsage.of(self._prepared, completions)
            chunks += [self._chunk(last[-1]), self._chunk(usage=usage, anysize=extras)]
        else:
            chunks.append(self._chunk(last[-1], anysize=extras))
        return joined(chunks) + DONE

    def _chunk(self, choice: ChunkChoice | None = None, **more: Any) -> str:
        out = ChatChunk(**self._head.fields(), object="chat.completion.chunk", choices=[], **more)
        if choice is not None:
            choice.logprobs, choice.finish_reason = choice.logprobs, choice.finish_reason  # null is said
            out.choices.append(choice)
        return out.model_dump_json(exclude_unset=True)

    def _logprobs(self, picks: Sequence[Pick]) -> ChatLogprobs | None:
        return ChatLogprobs.of(picks, self._texts) if self._body.logprobs else None


def _encoded(body: ChatIn, service: ServiceState) -> Encoded:
    encoder = service.encoder
    if body.longest is not None:
        encoder.check_tokens(body.longest, body.samples)
    schema = body.schema_of_answer
    grammar = service.grammars.of_schema(schema, "response_format") if schema is not None else None
    ids = encoder.messages([_for_template(message) for message in body.messages])
    max_tokens = body.longest or encoder.most_tokens(ids, body.samples)
    encoder.check_context(ids, max_tokens)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return Encoded([ids], body.sampling(max_tokens=max_tokens, logprobs=logprobs), grammar)


def _for_template(message: ChatMessage) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": message.text}
