"""Reading tool calls out of an answer: JSON between `<tool_call>` and `</tool_call>`, as Qwen and Hermes write.

What is no such call stays text, so nothing that a model says is lost.
"""

import json
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field

from anysize.api.prompt import CALL

OPEN, CLOSE = CALL


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function.

    Attributes:
        index: among the calls of its answer, from 0.
        name: of the function.
        arguments: a JSON object.
        id: that its answer will name.
    """

    index: int
    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex}")


class CallReader:
    """Takes an answer piece by piece, and gives words and calls apart.

    Args:
        names: of the functions that may be called; without any, all is words.
        most: calls that are read; what comes after them stays text.
    """

    def __init__(self, names: Collection[str], *, most: int) -> None:
        self._names = names
        self._most = most
        self._held = ""
        self._calls = 0
        self._blank = ""
        self._has_spoken = False

    @property
    def has_called(self) -> bool:
        """Whether there has been a call."""
        return self._calls > 0

    def read(self, text: str) -> tuple[str, list[Call]]:
        """The words and the calls that a further piece completes."""
        if not self._names:
            return text, []
        self._held += text
        words, calls = "", []
        while OPEN in self._held:
            before, _, after = self._held.partition(OPEN)
            inside, closed, rest = after.partition(CLOSE)
            if not closed:
                break
            call = self._call(inside) if self._calls < self._most else None
            if call is None:
                words += f"{before}{OPEN}{inside}{CLOSE}"
            else:
                words += before
                calls.append(call)
                self._calls += 1
            self._held = rest
        until = self._held.find(OPEN)
        if until < 0:
            until = len(self._held) - _overlap(self._held)
        words, self._held = words + self._held[:until], self._held[until:]
        return self._said(words), calls

    def end(self) -> str:
        """The words that were held back to the end."""
        rest, self._held = self._blank + self._held, ""
        return rest if self._has_spoken or rest.strip() or not self.has_called else ""

    def _said(self, words: str) -> str:
        """White space is no answer beside calls, so it waits for a first word."""
        words = self._blank + words
        self._has_spoken = self._has_spoken or bool(words.strip())
        self._blank = "" if self._has_spoken else words
        return words if self._has_spoken else ""

    def _call(self, inside: str) -> Call | None:
        try:
            parsed = json.loads(inside)
        except (ValueError, RecursionError):
            return None
        if not isinstance(parsed, dict):
            return None
        name, arguments = parsed.get("name"), parsed.get("arguments")
        if name not in self._names or not isinstance(arguments, dict):
            return None
        return Call(self._calls, str(name), json.dumps(arguments, ensure_ascii=False))


def _overlap(text: str) -> int:
    """How many of the last characters may be the beginning of a call."""
    return next((size for size in range(len(OPEN) - 1, 0, -1) if text.endswith(OPEN[:size])), 0)
