"""The bank made runnable for many requests at once, each on the size that it asked for.

One thread uses a `Model`: it reserves a `Sequence` for a request, brings `Row`s of tokens to `step`, and releases the
sequence at the end.
"""

from collections import abc

import torch
from torch import Tensor

from anysize.engine.kernels.kernels import Kernels
from anysize.engine.memory import heads_and_width, layer_token_bytes
from anysize.engine.pages import PagePool
from anysize.engine.sequence import Row, Sequence
from anysize.engine.sweep import Sweep
from anysize.errors import SettingsError
from anysize.family.bank import Bank
from anysize.family.variant import Variant

__all__ = ["Model", "Row", "Sequence"]


class Model:
    """Every size of a family in one batch.

    Args:
        bank: the weights; nothing in it is changed.
        kv_bytes: bounds the memory of keys and values. It is asked of the system at once and touched as pages fill.
        page_tokens: tokens a page holds.
        kernels: compiled ones, where they are to be used; float32 on the CPU alone.

    Raises:
        SettingsError: `kv_bytes` is less than one token at every layer of the teacher needs.
    """

    def __init__(self, bank: Bank, *, kv_bytes: int, page_tokens: int = 16, kernels: Kernels | None = None) -> None:
        heads, width = heads_and_width(bank)
        weight = next(bank.teacher.parameters())
        page_bytes = page_tokens * layer_token_bytes(bank)
        pages = kv_bytes // page_bytes
        least = bank.blocks.teacher_layers
        if pages < least:
            raise SettingsError(
                f"{kv_bytes} bytes for keys and values are too few: the largest size needs {least * page_bytes} for the"
                f" first {page_tokens} tokens alone"
            )
        self._blocks = bank.blocks
        self._pool = PagePool(
            pages, page_tokens=page_tokens, heads=heads, width=width, dtype=weight.dtype, device=weight.device
        )
        self._sweep = Sweep(bank, kernels)

    @property
    def total_pages(self) -> int:
        """Pages of the pool."""
        return self._pool.total

    @property
    def free_pages(self) -> int:
        """Pages that no sequence holds."""
        return self._pool.free

    @property
    def used_pages(self) -> int:
        """Pages that sequences hold."""
        return self._pool.used

    def fits(self, variant: Variant, tokens: int) -> bool:
        """Whether `reserve` could ever succeed, with nothing else running."""
        return self._pages(variant, tokens) <= self._pool.total

    def reserve(self, variant: Variant, tokens: int) -> Sequence | None:
        """Make room for one request.

        Args:
            variant: the size that it runs on.
            tokens: the most that it can need, prompt and answer together.

        Returns:
            Its place, which nobody else can take until it is released; None if there are not enough free pages now.
        """
        if self._pages(variant, tokens) > self._pool.free:
            return None
        each = self._pages_of_a_place(tokens)
        places: list[tuple[range, ...]] = []
        for _ in range(variant.depth(self._blocks)):
            runs = self._pool.take(each)
            assert runs is not None
            places.append(runs)
        return Sequence(variant, places, self._pool)

    def release(self, sequence: Sequence) -> None:
        """Give back the pages of a sequence, which is of no more use. Once for each."""
        for runs in sequence.places:
            self._pool.give_back(runs)

    @torch.inference_mode()
    def step(self, rows: abc.Sequence[Row]) -> Tensor:
        """Advance every row by its tokens, whatever their variants, reading each layer's weights at most once.

        If this raises, no row has advanced, and the same rows can be brought again.

        Args:
            rows: of different sequences, each with room for its tokens.

        Returns:
            Float32 logits [rows with `wants_logits`, V], in the order of the rows. An inference tensor.
        """
        if not rows:
            return torch.empty(0, 0)
        assert len({id(row.sequence) for row in rows}) == len(rows), "a sequence comes twice in one step"
        for row in rows:
            assert row.token_ids, "a row brings no token"
            assert row.sequence.length + len(row.token_ids) <= row.sequence.capacity, "a row has no room for its tokens"
        logits_RV = self._sweep.run(rows, self._pool).float()
        for row in rows:
            row.sequence.length += len(row.token_ids)
        return logits_RV

    def _pages(self, variant: Variant, tokens: int) -> int:
        return variant.depth(self._blocks) * self._pages_of_a_place(tokens)

    def _pages_of_a_place(self, tokens: int) -> int:
        return -(-tokens // self._pool.page_tokens)
