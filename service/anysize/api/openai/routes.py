"""What the routes that answer document alike."""

from typing import Any

from anysize.api.openai.errors import OpenAIErrorOut

EVENTS = {"description": "the answer", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": OpenAIErrorOut, "description": "the request can never be answered"},
    404: {"model": OpenAIErrorOut, "description": "no such model"},
    408: {"model": OpenAIErrorOut, "description": "the body did not arrive in time"},
    413: {"model": OpenAIErrorOut, "description": "the body is too large"},
    415: {"model": OpenAIErrorOut, "description": "the body is compressed"},
    429: {"model": OpenAIErrorOut, "description": "too many requests wait; see Retry-After"},
    500: {"model": OpenAIErrorOut, "description": "an unexpected error"},
    503: {"model": OpenAIErrorOut, "description": "the model failed, the service is stopping, or the load forbids it"},
}
