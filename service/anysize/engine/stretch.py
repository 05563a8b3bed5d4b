"""Runs of tokens from the first one on, page by page: the same tokens are one object while anybody holds it."""

from array import array
from collections.abc import Iterator, Sequence
from weakref import WeakValueDictionary


class Stretch:
    """A full page of tokens and all tokens before it. Equal to itself alone.

    Args:
        before: all tokens before its page; None at the first.
    """

    __slots__ = ("__weakref__", "_before")

    def __init__(self, before: "Stretch | None") -> None:
        self._before = before  # lives as long as what comes after it


class Stretches:
    """Those that are held somewhere. Tokens are compared themselves, so that no others are ever taken for them."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[Stretch | None, bytes], Stretch] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._known)

    def after(self, before: Stretch | None, token_ids: Sequence[int]) -> Stretch:
        """The stretch that goes on with one page of tokens."""
        key = (before, _packed(token_ids))
        found = self._known.get(key)
        if found is None:
            self._known[key] = found = Stretch(before)
        return found

    def of(self, token_ids: Sequence[int], page_tokens: int) -> Iterator[Stretch]:
        """One for each full page of tokens."""
        stretch = None
        for stop in range(page_tokens, len(token_ids) + 1, page_tokens):
            stretch = self.after(stretch, token_ids[stop - page_tokens : stop])
            yield stretch


def _packed(token_ids: Sequence[int]) -> bytes:
    return array("q", token_ids).tobytes()
