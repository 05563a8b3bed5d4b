"""The JSON of tools: what a chat may call, what it has called, and which it must."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from anysize.api.openai.options import OpenAIBody

MAX_CALLS = 128
_MAX_TEXT_CHARS = 1_000_000

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
_Text = Annotated[str, Field(max_length=_MAX_TEXT_CHARS)]


class FunctionIn(OpenAIBody):
    """A function that may be called."""

    name: _Name
    description: _Text | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="JSON schema of its arguments, an object")
    strict: bool | None = Field(default=None, description="the schema is kept wherever a call is demanded")

    @field_validator("parameters")
    @classmethod
    def _are_an_object(cls, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        if parameters and parameters.get("type", "object") != "object":
            raise ValueError("arguments are an object: give parameters the type object")
        return parameters

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """What its arguments look like."""
        return {"type": "object", **(self.parameters or {"properties": {}, "additionalProperties": False})}


class ToolIn(OpenAIBody):
    """A tool; there is no other kind than functions."""

    type: Literal["function"]
    function: FunctionIn


class CalledFunction(OpenAIBody):
    """A function that was called, with its arguments as JSON."""

    name: _Name
    arguments: _Text

    @property
    def parsed(self) -> dict[str, Any]:
        """The arguments."""
        return json.loads(self.arguments)

    @field_validator("arguments")
    @classmethod
    def _are_json(cls, arguments: str) -> str:
        try:
            parsed = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"arguments are no JSON: {error}") from error
        if not isinstance(parsed, dict):
            raise ValueError("arguments are a JSON object, as text")  # noqa: TRY004  (pydantic shows these alone)
        return arguments


class ToolCall(OpenAIBody):
    """A call, in a message of the assistant; its answer is a message of the role `tool`."""

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"]
    function: CalledFunction


class FunctionName(OpenAIBody):
    """Which function."""

    name: _Name


class NamedTool(OpenAIBody):
    """A tool that must be called."""

    type: Literal["function"]
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class WithTools(OpenAIBody):
    """The fields of a chat that has tools."""

    tools: Annotated[list[ToolIn], Field(max_length=MAX_CALLS)] | None = Field(
        default=None, description="for models whose chat template takes tools and writes calls as <tool_call> JSON"
    )
    tool_choice: ToolChoice | None = Field(default=None, description="auto by default")
    parallel_tool_calls: bool | None = Field(default=None, description="true by default; false asks for one at most")

    @model_validator(mode="after")
    def _name_what_there_is(self) -> Self:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("tools: two functions have the same name")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice: there is no tool {self.tool_choice.function.name!r}")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice required needs tools")
        return self

    @property
    def offered(self) -> tuple[FunctionIn, ...]:
        """Functions that the model is told of."""
        return () if self.tool_choice == "none" else tuple(tool.function for tool in self.tools or ())

    @property
    def demanded(self) -> tuple[FunctionIn, ...]:
        """Functions one of which must be called; none where the model is free to answer in words."""
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            return tuple(function for function in self.offered if function.name == name)
        return self.offered if self.tool_choice == "required" else ()
