"""What is known of one HTTP request while it is answered: what logs and traces tell of it. Never a word of its text."""

import re
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from anysize.engine.request import Completion, GenerationRequest
from anysize.sizing.planner import Promise

REQUEST_ID = "x-request-id"
# What may stand in a header, in a line of a log and in a file name alike.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_LEFT = 499
_UNMATCHED, _OTHER = "unmatched", "other"

current: ContextVar["Record | None"] = ContextVar("anysize_record", default=None)


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer of the engine.

    Attributes:
        request: what was asked of it.
        completion: what it made of that.
        promise: what a latency budget was promised, if there was one.
        ended_ns: when, as `time.time_ns`.
    """

    request: GenerationRequest
    completion: Completion
    promise: Promise | None
    ended_ns: int = field(default_factory=time.time_ns)


@dataclass(slots=True)
class Record:
    """One HTTP request. Filled while it is answered, read once it is over.

    Attributes:
        request_id: the client's `x-request-id` where that is a plain one, else made.
        method: one of HTTP's, or `other`.
        started_ns: when it arrived, as `time.time_ns`.
        started_s: the same on the clock that measures.
        route: template of the route that answered; `unmatched` where none did.
        status: of the response; 499 where the client left before one began.
        duration_s: from the request's head to the response's last byte.
        answers: of the engine; a request may ask for several.
        error: name of the error's class, where one was reported.
    """

    request_id: str
    method: str
    started_ns: int = field(default_factory=time.time_ns)
    started_s: float = field(default_factory=time.perf_counter)
    route: str = _UNMATCHED
    status: int = _CLIENT_LEFT
    duration_s: float = 0.0
    answers: list[Answered] = field(default_factory=list)
    error: str | None = None

    @classmethod
    def of(cls, scope: Scope) -> "Record":
        """That of a request that has just arrived."""
        given = Headers(scope=scope).get(REQUEST_ID, "")
        method = scope["method"]
        return cls(
            request_id=given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex,
            method=method if method in _METHODS else _OTHER,
        )

    def finish(self, scope: Scope) -> None:
        """Note the route and the time, once the response is out."""
        self.duration_s = time.perf_counter() - self.started_s
        self.route = route_of(scope)

    def fields(self) -> dict[str, Any]:
        """What a log says of it."""
        said: dict[str, Any] = {
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "duration_ms": _ms(1e3 * self.duration_s),
        }
        if self.error is not None:
            said["error"] = self.error
        if len(self.answers) == 1:
            said |= _answer_fields(self.answers[0])
        elif self.answers:
            said["answers"] = [_answer_fields(answer) for answer in self.answers]
        return said


def route_of(scope: Scope) -> str:
    """The template of the route that a request went to, from a set that clients cannot add to."""
    if (path := getattr(scope.get("route"), "path", None)) is not None:
        return path
    if "endpoint" in scope:
        return _OTHER
    # Turned away before it was routed.
    return scope["path"] if scope["path"] in scope["app"].openapi()["paths"] else _UNMATCHED


def _answer_fields(answer: Answered) -> dict[str, Any]:
    completion, timing = answer.completion, answer.completion.timing
    return {
        "id": answer.request.id,
        "variant": completion.size.id,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": len(answer.request.prompt_ids),
        "cached_tokens": completion.cached_tokens,
        "completion_tokens": completion.completion_tokens,
        "queue_ms": _ms(timing.queue_ms),
        "ttft_ms": _ms(timing.ttft_ms),
        "tpot_ms": _ms(timing.tpot_ms),
        "total_ms": _ms(timing.total_ms),
        **({} if answer.promise is None else {"budget_kept": answer.promise.is_kept(timing)}),
    }


def _ms(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
