"""Errors as OpenAI's clients know them."""

from pydantic import BaseModel

PREFIX = "/v1/"

# What is 422 elsewhere; clients tell their own mistakes by it.
_BAD_REQUEST = 400
_TYPES = {404: "not_found_error", 429: "rate_limit_error"}


class OpenAIErrorDetail(BaseModel):
    """What went wrong; `param` is the field at fault, `code` says which kind of error it is."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorOut(BaseModel):
    """The one shape of every error under `/v1`."""

    error: OpenAIErrorDetail


def in_openai_shape(status: int, kind: str, message: str, field: str | None) -> tuple[int, OpenAIErrorOut]:
    """Status and body of an error.

    Args:
        status: what it is elsewhere.
        kind: as elsewhere.
        message: for people.
        field: at fault, if one is.
    """
    status = _BAD_REQUEST if status == 422 else status
    named = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return status, OpenAIErrorOut(error=OpenAIErrorDetail(message=message, type=named, param=field, code=kind))
