"""The pool of pages: exact accounts, disjoint holders, side by side where there is room."""

from itertools import accumulate

import pytest
import torch
from fakes import CPU
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from anysize.engine.pages import PagePool

PAGES = 24


def pool_of(pages: int) -> PagePool:
    return PagePool(pages, page_tokens=4, heads=1, width=1, dtype=torch.float32, device=CPU)


def fewest_pieces(free: set[int], pages: int) -> int:
    """How many runs of free pages it takes to hold so many."""
    starts = sorted(page for page in free if page - 1 not in free)
    stops = sorted(page + 1 for page in free if page + 1 not in free)
    lengths = sorted((stop - start for start, stop in zip(starts, stops, strict=True)), reverse=True)
    return next(pieces for pieces, held in enumerate(accumulate(lengths), 1) if held >= pages)


class Holders(RuleBasedStateMachine):
    """Takes and gives back at random; a set of page numbers is the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool_of(PAGES)
        self.held: list[tuple[range, ...]] = []

    @property
    def held_pages(self) -> list[int]:
        return [page for runs in self.held for run in runs for page in run]

    @rule(pages=st.integers(1, PAGES))
    def take(self, pages: int) -> None:
        free = set(range(PAGES)) - set(self.held_pages)
        has_run = any(free.issuperset(range(start, start + pages)) for start in range(PAGES))
        runs = self.pool.take(pages)
        assert (runs is None) == (pages > len(free)), "refused although there was room, or the reverse"
        if runs is not None:
            taken = [page for run in runs for page in run]
            assert len(taken) == pages
            assert free.issuperset(taken), "a page has two holders"
            assert (len(runs) == 1) == has_run, "in pieces although there was a run, or the reverse"
            assert len(runs) == (1 if has_run else fewest_pieces(free, pages))
            self.held.append(runs)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.pool.give_back(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def accounts_are_exact(self) -> None:
        assert self.pool.used == len(self.held_pages) == len(set(self.held_pages))
        assert self.pool.free + self.pool.used == self.pool.total == PAGES


TestHolders = Holders.TestCase
TestHolders.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_after_everything_came_back_the_pool_is_one_run_again():
    pool = pool_of(12)
    held = [pool.take(3) for _ in range(4)]
    for runs in (held[2], held[0], held[3], held[1]):
        assert runs is not None
        pool.give_back(runs)
    assert pool.take(12) == (range(12),)


def test_the_smallest_run_that_is_large_enough_is_taken():
    pool = pool_of(12)
    first, _, third, _ = (pool.take(pages) for pages in (4, 1, 2, 5))
    assert first is not None
    assert third is not None
    pool.give_back(first)
    pool.give_back(third)
    assert pool.take(2) == third


@pytest.mark.parametrize("others", [(), (0, 2)], ids=["among pages that are held", "among pages that are free"])
def test_a_page_that_comes_back_twice_is_seen(others: tuple[int, ...]):
    pool = pool_of(12)
    held = [pool.take(4) for _ in range(3)]
    for number in (1, *others):
        runs = held[number]
        assert runs is not None
        pool.give_back(runs)
    assert held[1] is not None
    with pytest.raises(AssertionError, match="twice"):
        pool.give_back(held[1])
