"""One request's place in the model, and the tokens that it brings to a step."""

from collections import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from anysize.engine.pages import PagePool
from anysize.engine.prefix import Lease
from anysize.family.variant import Variant


class Sequence:
    """One request's place in the model: its keys and values, at every place of its own stack of layers.

    Made and released by the `Model` alone.

    Args:
        variant: whose stack it has.
        places: the pages of each place, first layer to last; the same number of pages at each.
        pool: where these pages are.
        lease: of what is known of its prompt; None where nothing is and nothing is to be kept of it.

    Attributes:
        variant: the size that it runs on.
        length: tokens whose keys and values are stored.
        border: the tokens before it that are still to be run are known at the first positions and run at the others
            alone; a row ends there.
        capacity: tokens that its pages have room for.
        lease: see above.
    """

    __slots__ = ("_pages_KP", "_pool", "_views", "border", "capacity", "lease", "length", "places", "variant")

    def __init__(
        self,
        variant: Variant,
        places: abc.Sequence[tuple[range, ...]],
        pool: PagePool,
        lease: Lease | None = None,
    ) -> None:
        self.variant = variant
        self.lease = lease
        self.length = lease.hit.whole * pool.page_tokens if lease else 0
        self.border = self.length + lease.hit.resumed * pool.page_tokens if lease else 0
        self.places = places
        self._pool = pool
        self._pages_KP = torch.tensor([[page for run in runs for page in run] for runs in places])
        self.capacity = self._pages_KP.shape[1] * pool.page_tokens
        self._views = [self._view(runs) for runs in places]

    @property
    def entry(self) -> int:
        """The position, counted from 0, at which the next token is taken up."""
        return self.lease.hit.entry if self.lease and self.length < self.border else 0

    def slots(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Where the tokens from `start` to before `stop` are stored: one tensor of slots a place."""
        return self._slots(self._pages_KP, start, stop).unbind()

    @property
    def pages_of_a_place(self) -> int:
        """How many pages it has at each place."""
        return self._pages_KP.shape[1]

    def address(self, place: int) -> int:
        """Where in memory the numbers of its pages at one place are, int64, for compiled kernels."""
        return self._pages_KP.data_ptr() + place * self._pages_KP.stride(0) * self._pages_KP.element_size()

    def pages_at(self, page: int) -> list[int]:
        """Where its n-th page of tokens lies, at each place."""
        return self._pages_KP[:, page].tolist()

    def first_pages(self, count: int) -> Tensor:
        """The numbers of its first so many pages at each place [K, P]; where it has fewer, the last again."""
        return self._pages_KP[:, torch.arange(count).clamp_(max=self.pages_of_a_place - 1)]

    def read(self, place: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens from `start` to before `stop` at one place, each [1, G, stop - start, D].

        Views where the pages lie side by side, otherwise a copy.
        """
        view = self._views[place]
        if view is None:
            pieces = [*self._pieces(place, start, stop)]
            keys_LGD = torch.cat([self._pool.keys_SGD[piece] for piece in pieces])
            values_LGD = torch.cat([self._pool.values_SGD[piece] for piece in pieces])
            return keys_LGD.transpose(0, 1)[None], values_LGD.transpose(0, 1)[None]
        keys_1GCD, values_1GCD = view
        return keys_1GCD.narrow(2, start, stop - start), values_1GCD.narrow(2, start, stop - start)

    def _pieces(self, place: int, start: int, stop: int) -> abc.Iterator[slice]:
        """The slots of the tokens from `start` to before `stop` at one place, as few slices as there are."""
        page_tokens = self._pool.page_tokens
        first = 0  # token of the run
        for run in self.places[place]:
            after = first + len(run) * page_tokens
            if first < stop and start < after:
                slot = run.start * page_tokens - first
                yield slice(slot + max(start, first), slot + min(stop, after))
            first = after

    def _slots(self, pages: Tensor, start: int, stop: int) -> Tensor:
        tokens_T = torch.arange(start, stop)
        page_tokens = self._pool.page_tokens
        return pages[..., tokens_T // page_tokens] * page_tokens + tokens_T % page_tokens

    def _view(self, runs: tuple[range, ...]) -> tuple[Tensor, Tensor] | None:
        if len(runs) != 1:
            return None
        page_tokens = self._pool.page_tokens
        run = slice(runs[0].start * page_tokens, runs[0].stop * page_tokens)
        keys_CGD, values_CGD = self._pool.keys_SGD[run], self._pool.values_SGD[run]
        return keys_CGD.transpose(0, 1)[None], values_CGD.transpose(0, 1)[None]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Tokens of one sequence to run now.

    Attributes:
        sequence: whose.
        token_ids: at positions `sequence.length`, `sequence.length + 1` and so on; at least one.
        wants_logits: whether the logits after the last of them are asked for.
    """

    sequence: Sequence
    token_ids: abc.Sequence[int]
    wants_logits: bool

    @property
    def tokens(self) -> int:
        """How many they are."""
        return len(self.token_ids)

    @property
    def start(self) -> int:
        """Which of the sequence's tokens is the first of these."""
        return self.sequence.length

    @property
    def entry(self) -> int:
        """The position, counted from 0, at which they are taken up; what is below is stored already."""
        return self.sequence.entry
