"""`POST /v1/chat/completions`: a conversation, and its next message."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from anysize.api.access import AnswerRoute
from anysize.api.answer import TokenTexts
from anysize.api.answering import Encoded, TpotHeader, TtftHeader
from anysize.api.openai.answers import AnysizeOut, Finish, OpenAIUsage, finish_of, token_bytes
from anysize.api.openai.chat_request import ChatIn, ChatMessage
from anysize.api.openai.routes import ERRORS, EVENTS
from anysize.api.openai.writer import Writer, answered, joined
from anysize.api.state import Service, ServiceState
from anysize.engine.request import Completion, Pick, Piece

router = APIRouter(route_class=AnswerRoute)


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
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None

    @classmethod
    def of(
        cls, index: int, delta: Delta, logprobs: ChatLogprobs | None = None, finish_reason: Finish | None = None
    ) -> Self:
        """With a null for what there is not, as OpenAI's has it."""
        return cls(index=index, delta=delta, logprobs=logprobs, finish_reason=finish_reason)


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
    slo_ms = (x_slo_ttft_ms, x_slo_tpot_ms)
    return await answered(body, http, service, slo_ms, prefix="chatcmpl", encode=_encoded, writer=ChatWriter)


class ChatWriter(Writer[ChatIn, ChunkChoice]):
    """Words the answers to a conversation."""

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
        opening = Delta(role="assistant", content="")
        indices = range(self._body.samples)
        return joined([self._chunk(ChunkChoice.of(index, opening)) for index in indices])

    def text(self, _place: int, piece: Piece) -> bytes:
        """A chunk."""
        logprobs = self._logprobs(piece.picks)
        return joined([self._chunk(ChunkChoice.of(piece.sample, Delta(content=piece.text), logprobs))])

    def _ends(self, completions: Sequence[Completion]) -> list[ChunkChoice]:
        return [
            ChunkChoice.of(index, Delta(), finish_reason=finish_of(choice.finish_reason))
            for index, choice in enumerate(completions[0].choices)
        ]

    def _chunk(self, choice: ChunkChoice | None = None, **more: Any) -> str:
        choices = [choice] if choice else []
        out = ChatChunk(**self._head.fields(), object="chat.completion.chunk", choices=choices, **more)
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
