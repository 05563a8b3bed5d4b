"""From a request's text to token ids, within the family's limits. Users' text never becomes a control token."""

import copy
from collections.abc import Sequence
from threading import Lock
from typing import cast

from anysize.api.schemas import GenerateIn, Message
from anysize.errors import RequestError
from anysize.family.family import Family


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
        """Tokenise a prompt, or messages through the chat template of the artifact.

        Raises:
            RequestError: too long, too many tokens asked for, or messages for a family without a chat template.
        """
        if body.n * body.max_tokens > self._max_tokens:
            times = "" if body.n == 1 else f" times n {body.n}"
            raise RequestError(
                f"max_tokens is {body.max_tokens}{times}, more than the {self._max_tokens} that this service allows"
            )
        texts = [body.prompt] if body.prompt is not None else [message.content for message in body.messages or ()]
        chars = sum(map(len, texts))
        if chars > self._max_chars:
            raise RequestError(
                f"the prompt has {chars} characters, more than the {self._max_chars} that this service allows"
            )
        with self._lock:
            ids = self._messages(body.messages) if body.messages is not None else self._prompt(texts[0])
        if not ids:
            raise RequestError("the prompt has no tokens")
        if len(ids) + body.max_tokens > self._context_tokens:
            raise RequestError(
                f"{len(ids)} prompt tokens and max_tokens {body.max_tokens} together exceed the context of "
                f"{self._context_tokens} tokens"
            )
        return ids

    def _prompt(self, text: str) -> list[int]:
        return self._tokenizer(text, split_special_tokens=True).input_ids

    def _messages(self, messages: Sequence[Message]) -> list[int]:
        if self._tokenizer.chat_template is None:
            raise RequestError(f"family {self._name} has no chat template; send a prompt instead of messages")
        try:
            ids = self._tokenizer.apply_chat_template(
                [message.model_dump() for message in messages],
                add_generation_prompt=True,
                return_dict=False,
                # Marks control tokens in what users wrote before rendering, and reads the marked ones as plain text.
                sanitize_control_tokens=True,
            )
        except Exception as error:
            raise RequestError(f"the chat template of {self._name} refuses these messages: {error}") from error
        return cast(list[int], ids)
