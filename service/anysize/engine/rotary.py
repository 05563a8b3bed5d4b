"""Cosines and sines by which layers turn queries and keys, according to their positions."""

import copy
from collections import abc

import torch
from torch import Tensor, nn

from anysize.engine.sequence import Row
from anysize.engine.step import Rotation
from anysize.family.assembly import view

# Kinds whose frequencies follow from the longest sequence of the call.
_BY_LENGTH = ("dynamic", "longrope")
_FIRST_POSITIONS = 1024


class Rotary:
    """A model's rotary embedding, looked up in a table that doubles whenever a sequence is longer.

    Args:
        embedding: transformers' module; it is copied, as some kinds write to their buffers.
    """

    def __init__(self, embedding: nn.Module) -> None:
        self._embedding = copy.deepcopy(embedding)
        self._table: list[Tensor] = []  # of cosines and of sines [positions, W]

    @property
    def depends_on_length(self) -> bool:
        """Whether what a token is turned by follows from how many come after it."""
        return getattr(self._embedding, "rope_type", None) in _BY_LENGTH

    def of(self, packed: abc.Sequence[Row], hidden_1TD: Tensor, positions_1T: Tensor) -> Rotation:
        """Cosines and sines [1, T, W] for the tokens of packed rows.

        Args:
            packed: the rows.
            hidden_1TD: of their tokens, whose type and device count.
            positions_1T: of their tokens.
        """
        if self.depends_on_length:
            return self._by_row(packed, hidden_1TD, positions_1T)
        longest = max(row.start + row.tokens for row in packed)
        if not self._table or len(self._table[0]) < longest:
            positions = max(_FIRST_POSITIONS, 1 << (longest - 1).bit_length())
            positions_1P = torch.arange(positions, device=hidden_1TD.device)[None]
            self._table = [part_1PW[0] for part_1PW in self._embedding(hidden_1TD, positions_1P)]
        return tuple(part_PW.index_select(0, positions_1T[0])[None] for part_PW in self._table)

    def _by_row(self, packed: abc.Sequence[Row], hidden_1TD: Tensor, positions_1T: Tensor) -> Rotation:
        # Each row by itself and on a fresh view, because such a module remembers the longest sequence that it has seen.
        by_row = positions_1T.split([row.tokens for row in packed], dim=1)
        parts = [view(self._embedding)(hidden_1TD, positions_1N) for positions_1N in by_row]
        return tuple(torch.cat(of_rows, dim=1) for of_rows in zip(*parts, strict=True))
