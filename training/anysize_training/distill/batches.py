"""Rows of token ids for the models, cut from tokenised documents: what a step trains on."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Packing = Literal["documents", "stream", "one_per_row"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows.

    Attributes:
        inputs_BL: token ids.
        targets_BL: the token behind each input.
        is_counted_BL: where a loss is taken: not on padding, and not where the next document would be predicted.
        positions_BL: of each input in its document; None where they count from the row's start.
    """

    inputs_BL: Tensor
    targets_BL: Tensor
    is_counted_BL: Tensor
    positions_BL: Tensor | None

    @property
    def tokens(self) -> int:
        """How many tokens are counted."""
        return int(self.is_counted_BL.sum())

    def to(self, device: torch.device) -> "Batch":
        """The same rows on a device."""
        positions_BL = None if self.positions_BL is None else self.positions_BL.to(device)
        return Batch(self.inputs_BL.to(device), self.targets_BL.to(device), self.is_counted_BL.to(device), positions_BL)


class Sequences:
    """All rows of a text; none of them is built before it is asked for.

    Args:
        tokens_T: the documents' token ids, one behind the other, each with a separator at its end.
        starts_S: where in `tokens_T` each document starts, increasing from 0.
        length: L, the inputs of a row.
        packing: how documents fill rows (see `recipe.Data`).
    """

    def __init__(self, tokens_T: Tensor, starts_S: Tensor, *, length: int, packing: Packing) -> None:
        self.length = length
        self._tokens_T = tokens_T
        self._starts_S = starts_S
        self._ends_S = torch.cat([starts_S[1:], torch.tensor([len(tokens_T)])])
        self._packing: Packing = packing

    def __len__(self) -> int:
        if self._packing == "one_per_row":
            return len(self._starts_S)
        return len(self._tokens_T) // (self.length + 1)

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self._starts_S)

    def row_numbers(self, step: int, size: int) -> Tensor:
        """The rows `[size]` of one optimizer step counted from 0.

        Steps take row after row and start again at the end, so a step's number is all that a resumed run must know.
        """
        return torch.arange(step * size, (step + 1) * size) % len(self)

    def rows(self, numbers_B: Tensor) -> Batch:
        """The rows of these numbers."""
        if self._packing == "one_per_row":
            first_B = self._starts_S[numbers_B]
            last_B = self._ends_S[numbers_B] - 1
        else:
            first_B = numbers_B * (self.length + 1)
            last_B = first_B + self.length
        places_BW = first_B[:, None] + torch.arange(self.length + 1)
        is_text_BW = places_BW <= last_B[:, None]
        tokens_BW = self._tokens_T[places_BW.clamp(max=len(self._tokens_T) - 1)].long() * is_text_BW
        is_counted_BL = is_text_BW[:, 1:]
        positions_BL = None
        if self._packing == "documents":
            document_BW = torch.searchsorted(self._starts_S, places_BW, right=True) - 1
            start_BW = torch.maximum(self._starts_S[document_BW], first_B[:, None])
            positions_BL = (places_BW - start_BW)[:, :-1]
            is_counted_BL = document_BW[:, 1:] == document_BW[:, :-1]
        return Batch(tokens_BW[:, :-1], tokens_BW[:, 1:], is_counted_BL, positions_BL)
