"""`POST /v1/chat/completions`: a conversation, and its next message."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from anysize.api.access import AnswerRoute
from anysize.api.answer import TokenTexts
from anysize.api.answering import Encoded, Prepared, TpotHeader, TtftHeader
from anysize.api.openai.answers import AnysizeOut, Head, OpenAIUsage, finish_of
from anysize.api.openai.calls import CallReader
from anysize.api.openai.chat_answer import (
    AnswerMessage,
    CallOut,
    ChatChoice,
    ChatChunk,
    ChatLogprobs,
    ChatOut,
    ChunkChoice,
    Delta,
)
from anysize.api.openai.chat_request import ChatIn, ChatMessage
from anysize.api.openai.routes import ERRORS, EVENTS
from anysize.api.openai.tools import MAX_CALLS, FunctionIn, NamedTool
from anysize.api.openai.writer import Writer, answered, joined
from anysize.api.prompt import CALL
from anysize.api.state import Service, ServiceState
from anysize.engine.grammar import Grammar
from anysize.engine.request import Choice, Completion, Pick, Piece

router = APIRouter(route_class=AnswerRoute)


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

    def __init__(self, body: ChatIn, head: Head, prepared: Sequence[Prepared], texts: TokenTexts) -> None:
        super().__init__(body, head, prepared, texts)
        self._readers = [self._reader() for _ in range(body.samples)]

    def whole(self, completions: Sequence[Completion]) -> ChatOut:
        """The plain answer."""
        choices = [self._choice(index, choice) for index, choice in enumerate(completions[0].choices)]
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
        """A chunk, unless what there is may yet become a call."""
        words, calls = self._readers[piece.sample].read(piece.text)
        logprobs = self._logprobs(piece.picks)
        if not (words or calls or logprobs):
            return b""
        return joined([self._chunk(ChunkChoice.of(piece.sample, Delta.of(words, calls), logprobs))])

    def _choice(self, index: int, choice: Choice) -> ChatChoice:
        reader = self._reader()
        words, calls = reader.read(choice.text)
        words += reader.end()
        message = AnswerMessage(content=words)
        if calls:
            message = AnswerMessage(content=words or None, tool_calls=[CallOut.of(call) for call in calls])
        return ChatChoice(
            index=index,
            message=message,
            logprobs=self._logprobs(choice.picks),
            finish_reason=finish_of(choice.finish_reason, has_called=reader.has_called),
        )

    def _ends(self, completions: Sequence[Completion]) -> list[ChunkChoice]:
        return [
            ChunkChoice.of(
                index,
                Delta(content=rest) if (rest := reader.end()) else Delta(),
                finish_reason=finish_of(choice.finish_reason, has_called=reader.has_called),
            )
            for index, (choice, reader) in enumerate(zip(completions[0].choices, self._readers, strict=True))
        ]

    def _reader(self) -> CallReader:
        names = {function.name for function in self._body.offered}
        return CallReader(names, most=1 if self._body.parallel_tool_calls is False else MAX_CALLS)

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
    tools = [_tool_for_template(function) for function in body.offered]
    ids = encoder.messages([_for_template(message) for message in body.messages], tools)
    max_tokens = body.longest or encoder.most_tokens(ids, body.samples)
    encoder.check_context(ids, max_tokens)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return Encoded([ids], body.sampling(max_tokens=max_tokens, logprobs=logprobs), _grammar(body, service))


def _grammar(body: ChatIn, service: ServiceState) -> Grammar | None:
    if (schema := body.schema_of_answer) is not None:
        return service.grammars.of_schema(schema, "response_format")
    if not body.demanded:
        return None
    schemas = {function.name: function.schema_of_arguments for function in body.demanded}
    is_single = body.parallel_tool_calls is False or isinstance(body.tool_choice, NamedTool)
    return service.grammars.of_calls(schemas, "tools", around=CALL, is_single=is_single)


def _for_template(message: ChatMessage) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": call.function.parsed}}
        for call in message.tool_calls or ()
    ]
    answered = {"tool_call_id": message.tool_call_id} if message.tool_call_id else {}
    return {"role": role, "content": message.text} | ({"tool_calls": calls} if calls else {}) | answered


def _tool_for_template(function: FunctionIn) -> dict[str, Any]:
    described = {"description": function.description} if function.description else {}
    return {
        "type": "function",
        "function": {"name": function.name, **described, "parameters": function.schema_of_arguments},
    }
