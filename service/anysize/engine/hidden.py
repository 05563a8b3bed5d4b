"""Hidden states of prompts, kept where two sizes first differ, so that the second takes up where they part."""

import torch
from torch import Tensor


class HiddenStates:
    """A fixed number of pages of hidden states, beside those of keys and values.

    Args:
        pages: how many.
        page_tokens: tokens a page holds.
        width: D, of the model.
        dtype: of the hidden states.
        device: where they lie.

    Attributes:
        states_SD: one slot a token, page after page.
        free: pages that hold nothing.
    """

    def __init__(self, pages: int, *, page_tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.total = pages
        self.free = list(range(pages))
        self.states_SD = torch.empty((pages * page_tokens, width), dtype=dtype, device=device)
        self._page_tokens = page_tokens

    def read(self, pages: list[int], start: int, stop: int) -> Tensor:
        """Hidden states [stop - start, D] of tokens.

        Args:
            pages: of a sequence's tokens, in order.
            start: the first of the tokens.
            stop: one after the last.
        """
        tokens_T = torch.arange(start, stop)
        return self.states_SD[self._slots(pages, tokens_T).to(self.states_SD.device)]

    def write(self, pages: list[int], start: int, states_TD: Tensor) -> None:
        """Store the hidden states of T tokens, where they have a page.

        Args:
            pages: of a sequence's tokens, in order; -1 for those that are not stored, as for all after the last.
            start: the first of the tokens.
            states_TD: theirs.
        """
        stop = min(start + len(states_TD), len(pages) * self._page_tokens)
        if start >= stop:
            return
        slots_T = self._slots(pages, torch.arange(start, stop))
        stored_N = (slots_T >= 0).nonzero()[:, 0]
        device = self.states_SD.device
        if len(stored_N) < len(states_TD):
            states_TD, slots_T = states_TD[stored_N.to(device)], slots_T[stored_N]
        self.states_SD.index_copy_(0, slots_T.to(device), states_TD)

    def have_room(self, pages: list[int], start: int) -> bool:
        """Whether the tokens from `start` on have pages; see `write`."""
        return start < len(pages) * self._page_tokens

    def _slots(self, pages: list[int], tokens_T: Tensor) -> Tensor:
        page_T = torch.tensor(pages)[tokens_T // self._page_tokens]
        return page_T * self._page_tokens + tokens_T % self._page_tokens
