"""The JSON of a chat."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from anysize.api.openai.options import NotSupported, OpenAIBody, Options
from anysize.api.openai.tools import MAX_CALLS, ToolCall, WithTools
from anysize.engine.grammars import JSON_OBJECT

_MAX_CHARS = 10_000_000

_Text = Annotated[str, Field(max_length=_MAX_CHARS)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class TextPart(OpenAIBody):
    """A part of a message; there is no other kind."""

    type: Literal["text"]
    text: _Text


class ChatMessage(OpenAIBody):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: _Text | Annotated[list[TextPart], Field(max_length=1000)] | None = None
    name: Annotated[str | None, NotSupported] = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: str | None = Field(default=None, min_length=1, max_length=256)
    refusal: Annotated[str | None, NotSupported] = None
    annotations: Annotated[list[Any] | None, NotSupported] = None
    audio: Annotated[dict[str, Any] | None, NotSupported] = None
    function_call: Annotated[dict[str, Any] | None, NotSupported] = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls are of the assistant")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id says which call a message of the role tool answers, and no other message")
        if self.content is None and not self.tool_calls:
            raise ValueError("a message needs content, or tool_calls of the assistant")
        return self

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class PlainFormat(OpenAIBody):
    """Any text, or any JSON object."""

    type: Literal["text", "json_object"]


class JsonSchema(OpenAIBody):
    """A schema with its name."""

    name: _Name
    description: _Text | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = Field(default=None, description="the schema is kept either way")

    model_config = ConfigDict(protected_namespaces=())


class SchemaFormat(OpenAIBody):
    """JSON of a schema's shape."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class ChatIn(WithTools, Options):
    """A conversation, what the answer may cost, and how tokens are picked."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1_000_000, description="as `max_tokens`")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    metadata: dict[str, str] | None = Field(default=None, description="taken, and not used")
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = Field(default=None, description="taken, and not used")
    prompt_cache_key: str | None = Field(default=None, description="taken, and not used")
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(given) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        if self.offered and self.schema_of_answer is not None:
            raise ValueError("response_format and tools contradict each other; leave one out, or give tool_choice none")
        return self

    @property
    def longest(self) -> int | None:
        """The most tokens of the answer, where the request says so."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def schema_of_answer(self) -> Mapping[str, Any] | None:
        """The JSON schema that the answer must follow, if any."""
        wanted = self.response_format
        if isinstance(wanted, SchemaFormat):
            return wanted.json_schema.schema_ or JSON_OBJECT
        return JSON_OBJECT if wanted is not None and wanted.type == "json_object" else None
