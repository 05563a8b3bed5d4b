"""One request's place in the model, and the tokens that it brings to a step."""

from collections import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from anysize.engine.pages import PagePool
from anysize.family.variant import Variant


class Sequence:
    """One request's place in the model: its keys and values, at every place of its own stack of layers.

    Made and released by the `Model` alone.

    Args:
        variant: whose stack it has.
        places: the pages of each place, first layer to last; the same number of pages at each.
        pool: where these pages are.

    Attributes:
        variant: the size that it runs on.
        length: tokens whose keys and values are stored.
        capacity: tokens that its pages have room for.
    """

    __slots__ = ("_pages_KP", "_pool", "_views", "capacity", "length", "places", "variant")

    def __init__(self, variant: Variant, places: abc.Sequence[tuple[range, ...]], pool: PagePool) -> None:
        self.variant = variant
        self.length = 0
        self.places = places
        self._pool = pool
        self._pages_KP = torch.tensor([[page for run in runs for page in run] for runs in places])
        self.capacity = self._pages_KP.shape[1] * pool.page_tokens
        self._views = [self._view(runs) for runs in places]

    def slots(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Where the tokens from `start` to before `stop` are stored: one tensor of slots a place."""
        return self._slots(self._pages_KP, start, stop).unbind()

    def address(self, place: int) -> int:
        """Where in memory the numbers of its pages at one place are, int64, for compiled kernels."""
        return self._pages_KP.data_ptr() + place * self._pages_KP.stride(0) * self._pages_KP.element_size()

    def read(self, place: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens from `start` to before `stop` at one place, each [1, G, stop - start, D].

        Views where the pages lie side by side, otherwise a copy.
        """
        view = self._views[place]
        if view is None:
            slots_L = self._slots(self._pages_KP[place], start, stop).to(self._pool.keys_SGD.device)
            keys_LGD, values_LGD = self._pool.keys_SGD[slots_L], self._pool.values_SGD[slots_L]
            return keys_LGD.transpose(0, 1)[None], values_LGD.transpose(0, 1)[None]
        keys_1GCD, values_1GCD = view
        return keys_1GCD.narrow(2, start, stop - start), values_1GCD.narrow(2, start, stop - start)

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
