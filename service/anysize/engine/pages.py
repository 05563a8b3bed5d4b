"""Keys and values of every running request, in pages of one bounded pool.

A page holds the keys and values of `page_tokens` tokens at one place of one request's own stack of layers. Slots are
token-major, so that pages that lie side by side are one strided matrix of keys: attention reads it where it is. Pages
are therefore handed out side by side wherever the pool still has room for that, and in pieces where it has not.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from anysize.family.arena import empty


class PagePool:
    """A fixed number of pages and who may use them. Free and used pages always add up to all of them.

    Args:
        pages: how many.
        page_tokens: tokens a page holds.
        heads: G, heads of keys and values.
        width: D, of one head.
        dtype: of keys and values.
        device: where they lie.

    Attributes:
        keys_SGD: one slot a token, page after page.
        values_SGD: likewise.
    """

    def __init__(
        self, pages: int, *, page_tokens: int, heads: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.page_tokens = page_tokens
        self.total = pages
        self.used = 0
        shape = (pages * page_tokens, heads, width)
        self.keys_SGD, self.values_SGD = (empty(shape, dtype=dtype, device=device) for _ in range(2))
        self._free = [range(pages)] if pages else []  # ascending, no two of them side by side

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return sum(map(len, self._free))

    def take(self, pages: int) -> tuple[range, ...] | None:
        """Hand out pages: the smallest free run that holds them all, else the fewest pieces, largest first.

        Returns:
            Runs of page numbers, in the order in which they are to be filled; None if there are not enough.
        """
        fitting = [run for run in self._free if len(run) >= pages]
        if fitting:
            return (self._cut(min(fitting, key=len), pages),)
        if self.free < pages:
            return None
        pieces: list[range] = []
        while pages:
            largest = max(self._free, key=len)
            pieces.append(self._cut(largest, min(pages, len(largest))))
            pages -= len(pieces[-1])
        return tuple(pieces)

    def give_back(self, runs: Iterable[range]) -> None:
        """Free pages that were taken, each exactly once."""
        for run in runs:
            start, stop = run.start, run.stop
            place = bisect_left(self._free, start, key=lambda free: free.start)
            before = self._free[place - 1] if place else None
            after = self._free[place] if place < len(self._free) else None
            assert before is None or before.stop <= start, "a page was freed twice"
            assert after is None or stop <= after.start, "a page was freed twice"
            if after is not None and after.start == stop:
                stop = after.stop
                del self._free[place]
            if before is not None and before.stop == start:
                start = before.start
                del self._free[place - 1]
            insort(self._free, range(start, stop), key=lambda free: free.start)
            self.used -= len(run)

    def write(self, slots_T: Tensor, keys_TGD: Tensor, values_TGD: Tensor) -> None:
        """Store the keys and values of T tokens."""
        self.keys_SGD.index_copy_(0, slots_T, keys_TGD)
        self.values_SGD.index_copy_(0, slots_T, values_TGD)

    def _cut(self, run: range, pages: int) -> range:
        place = self._free.index(run)
        taken, rest = run[:pages], run[pages:]
        self._free[place : place + 1] = [rest] if rest else []
        self.used += pages
        return taken


def runs_of(pages: Sequence[int]) -> tuple[range, ...]:
    """The same pages in the same order, those that follow each other joined."""
    runs: list[range] = []
    for page in pages:
        if runs and runs[-1].stop == page:
            runs[-1] = range(runs[-1].start, page + 1)
        else:
            runs.append(range(page, page + 1))
    return tuple(runs)
