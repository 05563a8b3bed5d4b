"""The bank made runnable for many requests at once, each on the size that it asked for.

One thread uses a `Model`: it reserves a `Sequence` for a request, brings `Row`s of tokens to `step`, and releases the
sequence at the end.
"""

from collections import abc

import torch
from torch import Tensor

from anysize.engine.hidden import HiddenStates
from anysize.engine.kernels.kernels import Kernels
from anysize.engine.memory import heads_and_width, layer_token_bytes
from anysize.engine.pages import PagePool, runs_of
from anysize.engine.prefix import Lease, PrefixCache, forks
from anysize.engine.sequence import Row, Sequence
from anysize.engine.sweep import Sweep
from anysize.errors import SettingsError
from anysize.family.bank import Bank
from anysize.family.variant import Variant

__all__ = ["Model", "Row", "Sequence"]

# Of the memory for keys and values, where hidden states are kept. A page of them is 1.5 pages of keys and values of the
# built-in family, and a prompt of its student keeps five for eleven of those.
_STATES_SHARE = 8


class Model:
    """Every size of a family in one batch.

    Args:
        bank: the weights; nothing in it is changed.
        kv_bytes: bounds the memory of keys and values. It is asked of the system at once and touched as pages fill.
        page_tokens: tokens a page holds.
        kernels: compiled ones, where they are to be used; float32 on the CPU alone.
        shared_by: the sizes whose prompts are kept for those that begin alike; nothing is kept where there are none.

    Raises:
        SettingsError: `kv_bytes` is less than one token at every layer of the teacher needs.
    """

    def __init__(
        self,
        bank: Bank,
        *,
        kv_bytes: int,
        page_tokens: int = 16,
        shared_by: abc.Collection[Variant] = (),
        kernels: Kernels | None = None,
    ) -> None:
        heads, width = heads_and_width(bank)
        weight = next(bank.teacher.parameters())
        page_bytes = page_tokens * layer_token_bytes(bank)
        self._sweep = Sweep(bank, kernels)
        is_kept = bool(shared_by) and not self._sweep.keys_depend_on_length
        self._states: HiddenStates | None = None
        if is_kept and any(forks(size, shared_by) for size in shared_by):
            state_bytes = page_tokens * bank.teacher.config.hidden_size * weight.element_size()
            self._states = HiddenStates(
                kv_bytes // _STATES_SHARE // state_bytes,
                page_tokens=page_tokens,
                width=bank.teacher.config.hidden_size,
                dtype=weight.dtype,
                device=weight.device,
            )
            kv_bytes -= self._states.total * state_bytes
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
        self._cache = PrefixCache(bank.blocks, shared_by, self._pool, self._states) if is_kept else None

    @property
    def total_pages(self) -> int:
        """Pages of the pool."""
        return self._pool.total

    @property
    def free_pages(self) -> int:
        """Pages that no sequence holds, those in which something is kept included."""
        return self._pool.free + self.cached_pages

    @property
    def cached_pages(self) -> int:
        """Pages in which something is kept for prompts to come, and that no sequence holds."""
        return self._cache.idle_pages if self._cache else 0

    @property
    def used_pages(self) -> int:
        """Pages that sequences hold."""
        return self._pool.used - self.cached_pages

    def fits(self, variant: Variant, tokens: int) -> bool:
        """Whether `reserve` could ever succeed, with nothing else running."""
        return self._pages(variant, tokens) <= self._pool.total

    def keeps(self, prompt_tokens: int) -> bool:
        """Whether a second prompt like one of so many tokens would find it known once it has been run."""
        return self._cache is not None and prompt_tokens > self._pool.page_tokens

    def reserve(
        self, variant: Variant, tokens: int, prompt_ids: abc.Sequence[int] = (), *, keeps_answer: bool = False
    ) -> Sequence | None:
        """Make room for one request.

        Args:
            variant: the size that it runs on.
            tokens: the most that it can need, prompt and answer together.
            prompt_ids: the first of these tokens. What is known of them need not be run: `length` of the sequence and
                its `border` say how much that is. Without them nothing is known, and nothing is kept.
            keeps_answer: whether hidden states are kept of all tokens and not of these alone, so that another size can
                go on with the answer.

        Returns:
            Its place, which nobody else can take until it is released; None if there are not enough free pages now.
        """
        if self._cache is None or not prompt_ids:
            return self._place(variant, tokens, None)
        lease = self._cache.lease(variant, prompt_ids)
        sequence = self._place(variant, tokens, lease)
        if sequence is None:
            self._cache.give_up(lease)
        else:
            self._cache.make_states(lease, sequence.capacity if keeps_answer else len(prompt_ids))
        return sequence

    def move(self, sequence: Sequence, variant: Variant, tokens: int, token_ids: abc.Sequence[int]) -> Sequence | None:
        """Make room for the same request on another size, in place of the room that it has.

        What the other size has in common with the present one, below the first position at which they differ, is known
        to it; so are the hidden states there, if the sequence was reserved with `keeps_answer`.

        Args:
            sequence: of the request. It is released, even if this raises, unless None is returned.
            variant: the size to go on with.
            tokens: as for `reserve`.
            token_ids: all that the request has so far. Those that are not known are to be run again.

        Returns:
            The new place; where the pages of a smaller size turn out not to be enough, because others hold some of the
            present ones, one on the size as before. None if there are not enough pages for a larger size now.
        """
        try:
            place = self.reserve(variant, tokens, token_ids, keeps_answer=True)
        except Exception:
            self.release(sequence)
            raise
        if place is None and self._pages(variant, tokens) > self._pages(sequence.variant, tokens):
            return None
        self.release(sequence)
        if place is None:
            place = self.reserve(variant, tokens, token_ids, keeps_answer=True) or self.reserve(
                sequence.variant, tokens, token_ids, keeps_answer=True
            )
        assert place is not None, "what has just been released is there"
        return place

    def release(self, sequence: Sequence) -> None:
        """Give back the pages of a sequence, which is of no more use. Once for each."""
        if self._cache is None or sequence.lease is None:
            for runs in sequence.places:
                self._pool.give_back(runs)
            return
        kept = {page for kept in sequence.lease.held for page in kept.pages}
        for runs in sequence.places:
            self._pool.give_back(runs_of([page for run in runs for page in run if page not in kept]))
        self._cache.give_up(sequence.lease)

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
            assert not row.entry or row.start + len(row.token_ids) <= row.sequence.border, "a row crosses its border"
        logits_RV = self._sweep.run(rows, self._pool, self._states).float()
        for row in rows:
            row.sequence.length += len(row.token_ids)
            if self._cache is not None and row.sequence.lease is not None:
                self._cache.ran(row.sequence.lease, row.token_ids, row.sequence.pages_at)
        return logits_RV

    def _place(self, variant: Variant, tokens: int, lease: Lease | None) -> Sequence | None:
        """A sequence over the pages that are known and new ones for the rest; None if there are not enough."""
        each, depth = self._pages_of_a_place(tokens), variant.depth(self._blocks)
        known = self._cache.known_pages(lease) if self._cache and lease else [[]] * depth
        needed = each * depth - sum(map(len, known))
        if needed > self.free_pages:
            return None
        if self._cache:
            self._cache.make_room(needed)
        places: list[tuple[range, ...]] = []
        for pages in known:
            runs = self._pool.take(each - len(pages)) if len(pages) < each else ()
            assert runs is not None
            places.append(runs_of([*pages, *(page for run in runs for page in run)]) if pages else runs)
        return Sequence(variant, places, self._pool, lease)

    def _pages(self, variant: Variant, tokens: int) -> int:
        return variant.depth(self._blocks) * self._pages_of_a_place(tokens)

    def _pages_of_a_place(self, tokens: int) -> int:
        return -(-tokens // self._pool.page_tokens)
