"""From a request's text to token ids, within the family's limits. Users' text never becomes a control token."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import Any, cast

from anysize.api.schemas import GenerateIn
from anysize.api.time_limit import time_limit
from anysize.errors import RequestError
from anysize.family.family import Family

# What a model puts around a call of a tool: the way of Qwen, Hermes and SmolLM3, the only one that is read here.
CALL = ("<tool_call>", "</tool_call>")
_WORDS_OF_TOOLS = ("tools", *CALL)

# A template comes from whoever made the family, and may never end. Ordinary ones take milliseconds.
_TEMPLATE_S = 2.0


class PromptEncoder:
    """Tokenises prompts and conversations for one family. Safe to use from several threads.

    Args:
        family: whose tokenizer, chat template and context length count.
        max_chars: in all texts of one request together.
        max_tokens: the most tokens one request may ask for.
    """

    def __init__(self, family: Family, *, max_chars: int, max_tokens: int) -> None:
        self._name = family.name
        self._context_tokens = family.context_tokens
        self._max_chars = max_chars
        self._max_tokens = max_tokens
        # Whether special tokens are split is state of the tokenizer, not of the call: two threads that share one could
        # read a user's text as control tokens. So it is a copy of its own, used by one thread at a time.
        self._tokenizer = copy.deepcopy(family.tokenizer)
        self._lock = Lock()

    def encode(self, body: GenerateIn) -> list[int]:
        """Tokenise the prompt of a request, or its messages.

        Raises:
            RequestError: too long, too many tokens asked for, or messages for a family without a chat template.
        """
        self.check_tokens(body.max_tokens, body.n)
        if body.messages is not None:
            ids = self.messages([message.model_dump() for message in body.messages])
        else:
            assert body.prompt is not None
            ids = self.prompt(body.prompt)
        self.check_context(ids, body.max_tokens)
        return ids

    def prompt(self, text: str) -> list[int]:
        """Tokenise a text.

        Raises:
            RequestError: it is too long, or nothing.
        """
        self.check_chars(len(text))
        with self._lock:
            ids = self._tokenizer(text, split_special_tokens=True).input_ids
        return _some(ids)

    def messages(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Tokenise a conversation through the chat template of the artifact.

        Args:
            messages: each with `role` and `content`, and `tool_calls` where there are any.
            tools: that the model is told of, as in OpenAI's API.

        Raises:
            RequestError: too long, or not for this template.
        """
        if self._tokenizer.chat_template is None:
            raise RequestError(f"family {self._name} has no chat template; send a prompt instead of messages")
        calls = [call for message in messages for call in message.get("tool_calls", ())]
        about_tools = [*tools, *calls]
        chars = sum(len(message["content"]) for message in messages)
        self.check_chars(chars + sum(len(text) for text, _is_name in _texts_in(about_tools)))
        if about_tools or any(message["role"] == "tool" for message in messages):
            self._check_tools(about_tools)
        try:
            with self._lock, time_limit(_TEMPLATE_S):
                ids = self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tools=[dict(tool) for tool in tools] or None,
                    add_generation_prompt=True,
                    return_dict=False,
                    # Marks control tokens in what users wrote before rendering, and reads those as plain text.
                    sanitize_control_tokens=True,
                )
        except MemoryError:
            raise
        except Exception as error:
            raise RequestError(f"the chat template of {self._name} refuses these messages: {error}") from error
        return _some(cast(list[int], ids))

    def check_chars(self, chars: int) -> None:
        """Refuse texts of so many characters together, if those are too many."""
        if chars > self._max_chars:
            raise RequestError(
                f"the prompt has {chars} characters, more than the {self._max_chars} that this service allows"
            )

    def check_tokens(self, max_tokens: int, answers: int) -> None:
        """Refuse so many answers of so many tokens, if those are too many."""
        if answers * max_tokens > self._max_tokens:
            times = "" if answers == 1 else f" times n {answers}"
            raise RequestError(
                f"max_tokens is {max_tokens}{times}, more than the {self._max_tokens} that this service allows"
            )

    def check_context(self, ids: Sequence[int], max_tokens: int) -> None:
        """Refuse a prompt that is too long for an answer of so many tokens."""
        if len(ids) + max_tokens > self._context_tokens:
            raise RequestError(
                f"{len(ids)} prompt tokens and max_tokens {max_tokens} together exceed the context of "
                f"{self._context_tokens} tokens"
            )

    def most_tokens(self, ids: Sequence[int], answers: int) -> int:
        """The longest answer, in tokens, that so many answers to a prompt may have; at least 1, allowed or not."""
        return max(1, min(self._context_tokens - len(ids), self._max_tokens // answers))

    def _check_tools(self, about_tools: Sequence[Mapping[str, Any]]) -> None:
        template = self._tokenizer.get_chat_template(None, cast(Any, about_tools))
        if not all(word in template for word in _WORDS_OF_TOOLS):
            raise RequestError(
                f"the chat template of {self._name} takes no tools that are called by {CALL[0]}; leave them out",
                "tools",
            )
        # Values are marked before rendering, names in an object are not.
        control = cast(Mapping[str, int], self._tokenizer.added_tokens_encoder)
        for name, is_name in _texts_in(about_tools):
            if is_name and any(token in name for token in control):
                raise RequestError(f"the name {name!r} holds a control token of {self._name}", "tools")


def _texts_in(value: Any) -> Iterator[tuple[str, bool]]:
    """Every text in a JSON value, and whether it is a name in an object."""
    left = [value]
    while left:
        inner = left.pop()
        if isinstance(inner, str):
            yield inner, False
        elif isinstance(inner, Mapping):
            yield from ((name, True) for name in inner)
            left.extend(inner.values())
        elif isinstance(inner, Sequence):
            left.extend(inner)


def _some(ids: list[int]) -> list[int]:
    if not ids:
        raise RequestError("the prompt has no tokens")
    return ids
