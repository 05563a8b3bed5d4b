"""The JSON of the answer to a chat, whole and in chunks."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel

from anysize.api.answer import TokenTexts
from anysize.api.openai.answers import AnysizeOut, Finish, OpenAIUsage, token_bytes
from anysize.api.openai.calls import Call
from anysize.engine.request import Pick


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


class CallFunctionOut(BaseModel):
    """Which function, with its arguments as JSON."""

    name: str
    arguments: str


class CallOut(BaseModel):
    """A call of a tool."""

    id: str
    type: Literal["function"] = "function"
    function: CallFunctionOut

    @classmethod
    def of(cls, call: Call) -> Self:
        """From a call that has been read."""
        return cls(id=call.id, type="function", function=CallFunctionOut(name=call.name, arguments=call.arguments))


class AnswerMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[CallOut] | None = None


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


class CallDelta(CallOut):
    """A call of a tool, whole, and its place among those of its answer."""

    index: int

    @classmethod
    def of(cls, call: Call) -> Self:
        """From a call that has been read."""
        return cls(index=call.index, **CallOut.of(call).model_dump())


class Delta(BaseModel):
    """What a chunk adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[CallDelta] | None = None

    @classmethod
    def of(cls, words: str, calls: Sequence[Call]) -> Self:
        """Words, calls, or both."""
        added: dict[str, Any] = {"content": words} if words or not calls else {}
        if calls:
            added["tool_calls"] = [CallDelta.of(call) for call in calls]
        return cls(**added)


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
