"""What the routes that answer have in common."""

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from anysize.api.errors import error_response_of, openai_error_out
from anysize.api.events import event
from anysize.api.openai.errors import PREFIX, OpenAIErrorOut
from anysize.errors import AnysizeError

DONE = event("[DONE]")
EVENTS = {"description": "the answer", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": OpenAIErrorOut, "description": "the request can never be answered"},
    404: {"model": OpenAIErrorOut, "description": "no such model"},
    413: {"model": OpenAIErrorOut, "description": "the body is too large"},
    415: {"model": OpenAIErrorOut, "description": "the body is compressed"},
    429: {"model": OpenAIErrorOut, "description": "too many requests wait; see Retry-After"},
    500: {"model": OpenAIErrorOut, "description": "an unexpected error"},
    503: {"model": OpenAIErrorOut, "description": "the model failed, the service is stopping, or the load forbids it"},
}


class ErrorEvents:
    """The part of a `Script` that says what went wrong."""

    def broken(self, error: AnysizeError) -> bytes:
        """The error's JSON as the last event."""
        return event(openai_error_out(error).model_dump_json())

    def refused(self, error: AnysizeError) -> Response:
        """The error as every other."""
        return error_response_of(error, PREFIX)


def joined(events: Sequence[str]) -> bytes:
    """Events without a name."""
    return b"".join(event(data) for data in events)
