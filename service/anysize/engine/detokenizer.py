"""Turning tokens into text as they come, across token borders, and finding stop strings."""

from collections.abc import Sequence
from typing import cast

from anysize.family.pretrained import Tokenizer

_REPLACEMENT = "\ufffd"


class Detokenizer:
    """The text of one answer.

    Args:
        tokenizer: of the family.
        stop: texts that end the answer; the earliest one found cuts it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._ids: list[int] = []
        self._context = 0  # where decoding starts, so that spaces between words come out right
        self._read = 0  # ids whose text is already in `_text`
        self._text = ""
        self._told = 0  # characters that `news` has given out
        self._is_finished = False

    def add(self, token_id: int) -> bool:
        """Take one more token.

        Returns:
            Whether a stop string is now complete.
        """
        self._ids.append(token_id)
        known = self._decode(self._ids[self._context : self._read])
        fresh = self._decode(self._ids[self._context :])[len(known) :]
        # Half a character at the end waits for the next token; what stands before it is certain already.
        certain = fresh.rstrip(_REPLACEMENT)
        searched_from = max(0, len(self._text) - max(map(len, self._stop), default=0))
        if self._cut_at_stop(self._text + certain, searched_from):
            return True
        if certain == fresh:
            self._text += fresh
            self._context, self._read = self._read, len(self._ids)
        return False

    def news(self) -> str:
        """Text that is certain and was not given out before.

        What may be the beginning of a stop string waits for the next token, or for `finish`.
        """
        certain = len(self._text) - (0 if self._is_finished else self._begun_stop())
        fresh = self._text[self._told : certain]
        self._told = max(self._told, certain)
        return fresh

    def finish(self) -> str:
        """The whole text, with whatever half character was left at the end."""
        if self._read < len(self._ids):
            known = self._decode(self._ids[self._context : self._read])
            self._text += self._decode(self._ids[self._context :])[len(known) :]
            self._read = len(self._ids)
        self._is_finished = True
        return self._text

    def _begun_stop(self) -> int:
        """Characters at the end that a stop string may begin with."""
        return max((n for stop in self._stop for n in range(1, len(stop)) if self._text.endswith(stop[:n])), default=0)

    def _cut_at_stop(self, text: str, searched_from: int) -> bool:
        found = [place for stop in self._stop if (place := text.find(stop, searched_from)) >= 0]
        if found:
            self._text = text[: min(found)]
            self._read = len(self._ids)
        return bool(found)

    def _decode(self, ids: list[int]) -> str:
        return cast(str, self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
