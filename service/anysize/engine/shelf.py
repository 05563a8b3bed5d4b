"""What is kept after use, each thing until nobody holds it and its pages are wanted for something else."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from anysize.engine.stretch import Stretch


class Key(NamedTuple):
    """Which tokens, on which way.

    Attributes:
        stretch: a full page of tokens and all tokens before it.
        choices: of the positions that they have gone through.
    """

    stretch: Stretch
    choices: tuple[bool, ...]


@dataclass(slots=True, eq=False)
class Kept:
    """One thing on a shelf.

    Attributes:
        key: where it is found again.
        pages: that it lies in.
        holders: how many use it now.
    """

    key: Key
    pages: tuple[int, ...]
    holders: int = 1


class Shelf:
    """Pages by key, with counts of who holds them. The least recently held go first, and only if nobody holds them.

    Attributes:
        idle_pages: pages that nobody holds.
    """

    def __init__(self) -> None:
        self.idle_pages = 0
        self._kept: dict[Key, Kept] = {}
        self._idle: OrderedDict[Key, Kept] = OrderedDict()  # least recently held first

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, key: Key, pages: tuple[int, ...]) -> Kept:
        """Keep pages under a key that has none; whoever adds them holds them."""
        assert key not in self._kept, "these tokens are kept already"
        self._kept[key] = kept = Kept(key, pages)
        return kept

    def hold(self, key: Key) -> Kept:
        """Hold what is kept under a key; once for each `release`."""
        kept = self._kept[key]
        if not kept.holders:
            del self._idle[key]
            self.idle_pages -= len(kept.pages)
        kept.holders += 1
        return kept

    def release(self, kept: Kept) -> None:
        """No longer hold it."""
        assert kept.holders > 0, "what is kept was released more often than held"
        kept.holders -= 1
        if not kept.holders:
            self._idle[kept.key] = kept
            self.idle_pages += len(kept.pages)

    def evict(self) -> tuple[int, ...] | None:
        """Forget what was held least recently, and hand over its pages; None if everything is held."""
        if not self._idle:
            return None
        key, kept = self._idle.popitem(last=False)
        del self._kept[key]
        self.idle_pages -= len(kept.pages)
        return kept.pages
