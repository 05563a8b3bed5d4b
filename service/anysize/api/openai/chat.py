"""`POST /v1/chat/completions`: a conversation, and its next message."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from anysize.api.access import AnswerRoute
from anysize.api.answer import TokenTexts
from anysize.api.answering import Encoded, Prepared, TpotHeader, TtftHeader
from anysize.api.openai.answers import AnysizeOut, Finish, Head, OpenAIUsage, finish_of
from anysize.api.openai.calls import CallReader
from anysize.api.openai.chat_answer import (
    AnswerMessage,
    CallDelta,
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
        self._readers = [self._reader() for _ in range(body.samples)] if body.offered else []

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
        logprobs = self._logprobs(piece.picks)
        delta = Delta(content=piece.text)
        if self._readers:
            words, calls = self._readers[piece.sample].read(piece.text)
            if not (words or calls or logprobs):
                return b""
            delta = Delta(content=words) if words or not calls else Delta()
            if calls:
                called = [CallDelta(**CallOut.of(call).model_dump(), index=call.index) for call in calls]
                delta = Delta.model_validate(delta.model_dump(exclude_unset=True) | {"tool_calls": called})
        return joined([self._chunk(ChunkChoice.of(piece.sample, delta, logprobs))])

    def _choice(self, index: int, choice: Choice) -> ChatChoice:
        finish = finish_of(choice.finish_reason)
        message = AnswerMessage(content=choice.text)
        if self._readers:
            reader = self._reader()
            words, calls = reader.read(choice.text)
            words += reader.end()
            if calls:
                message = AnswerMessage(content=words or None, tool_calls=[CallOut.of(call) for call in calls])
                finish = _with_calls(finish)
        return ChatChoice(index=index, message=message, logprobs=self._logprobs(choice.picks), finish_reason=finish)

    def _ends(self, completions: Sequence[Completion]) -> list[ChunkChoice]:
        ends = []
        for index, choice in enumerate(completions[0].choices):
            delta, finish = Delta(), finish_of(choice.finish_reason)
            if self._readers:
                rest = self._readers[index].end()
                delta = Delta(content=rest) if rest else delta
                finish = _with_calls(finish) if self._readers[index].has_called else finish
            ends.append(ChunkChoice.of(index, delta, finish_reason=finish))
        return ends

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


def _with_calls(finish: Finish) -> Finish:
    return "tool_calls" if finish == "stop" else finish
