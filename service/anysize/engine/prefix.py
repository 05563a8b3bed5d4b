"""Prompts that begin alike are computed once: which tokens are known already, on one size and across sizes.

The keys and values of a token at a position depend on the tokens up to it and on the choices of the variant at the
positions up to that one, the owner of the embedding being that of the first. So this pair is the key under which a full
page of tokens is kept, and sizes share whatever lies below the first position at which they differ. To go on above it a
size needs the hidden states that enter there: these are kept too, at the positions at which served sizes part.

Knows no tensor but who lies where. Keys hold no hash of tokens but the tokens themselves, so that none can be made that
find those of others.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from anysize.engine.hidden import HiddenStates
from anysize.engine.pages import PagePool, runs_of
from anysize.engine.shelf import Kept, Key, Shelf
from anysize.engine.stretch import Stretch, Stretches
from anysize.family.blocks import BlockMap
from anysize.family.variant import Variant

_REMEMBERED_VARIANTS = 1024


@dataclass(frozen=True, slots=True)
class Hit:
    """How far a prompt is known.

    Attributes:
        whole: its first pages, known at every position.
        resumed: the pages after these that are known below position `entry`, hidden states there included.
        entry: the position at which these are taken up, counted from 0; 0 where there are none.
    """

    whole: int = 0
    resumed: int = 0
    entry: int = 0


@dataclass(slots=True, eq=False)
class Lease:
    """What one sequence holds of what is kept, and where it puts what is to be kept of it.

    Attributes:
        variant: of the sequence.
        hit: of its prompt.
        stretches: up to the end of each of its full pages; first those of its prompt, later of its answer.
        token_ids: known or run so far.
        held: keys and values of its pages, in the order in which they are of use.
        held_states: hidden states likewise.
        state_pages: for each position that keeps hidden states where those of each page lie; -1 for none.
        own_state_pages: those of them that nobody else knows of.
    """

    variant: Variant
    hit: Hit
    stretches: list[Stretch]
    token_ids: list[int]
    held: list[Kept] = field(default_factory=list)
    held_states: list[Kept] = field(default_factory=list)
    state_pages: dict[int, list[int]] = field(default_factory=dict)
    own_state_pages: set[int] = field(default_factory=set)

    def entry(self, page: int) -> int:
        """The position at which the tokens of a page that is run are taken up."""
        return self.hit.entry if page < self.hit.whole + self.hit.resumed else 0


class PrefixCache:
    """What is kept of the prompts of one model.

    Args:
        blocks: of the family.
        sizes: between which hidden states are of use.
        pool: of keys and values. What is kept lies in it and makes room for whoever needs pages.
        states: pages of hidden states; None keeps none.
    """

    def __init__(
        self, blocks: BlockMap, sizes: Collection[Variant], pool: PagePool, states: HiddenStates | None
    ) -> None:
        self._lengths = [len(block) for block in blocks.blocks]
        self._pool = pool
        self._states = states
        self._stretches = Stretches()
        self._shelf = Shelf()
        self._state_shelf = Shelf()
        self._forks = lru_cache(maxsize=_REMEMBERED_VARIANTS)(lambda variant: forks(variant, sizes) if states else ())

    @property
    def idle_pages(self) -> int:
        """Pages of keys and values that are kept and that no sequence uses."""
        return self._shelf.idle_pages

    @property
    def idle_state_pages(self) -> int:
        """Pages of hidden states that are kept and that no sequence uses."""
        return self._state_shelf.idle_pages

    def lease(self, variant: Variant, prompt_ids: Sequence[int]) -> Lease:
        """Hold what is known of a prompt; all but its last token at most, whose logits are wanted."""
        stretches = [*self._stretches.of(prompt_ids, self._pool.page_tokens)]
        hit = self._find(variant, stretches, full=(len(prompt_ids) - 1) // self._pool.page_tokens)
        lease = Lease(variant, hit, stretches, list(prompt_ids[: hit.whole * self._pool.page_tokens]))
        choice = variant.choice
        for page in range(hit.whole + hit.resumed):
            top = len(choice) if page < hit.whole else hit.entry
            lease.held += [self._shelf.hold(Key(stretches[page], choice[: position + 1])) for position in range(top)]
        if hit.resumed:
            resumed = stretches[hit.whole : hit.whole + hit.resumed]
            lease.held_states = [self._state_shelf.hold(Key(stretch, choice[: hit.entry])) for stretch in resumed]
        return lease

    def known_pages(self, lease: Lease) -> list[list[int]]:
        """The pages that are known already, for each place of the sequence, of its first tokens on."""
        places: list[list[int]] = [[] for _ in range(sum(self._widths(lease.variant)))]
        for kept in lease.held:
            top = len(kept.key.choices)
            stop = sum(self._widths(lease.variant)[:top])
            for place, page in zip(range(stop - len(kept.pages), stop), kept.pages, strict=True):
                places[place].append(page)
        return places

    def make_room(self, pages: int) -> None:
        """Free pages of the pool until it has so many, as long as something is kept that nobody holds."""
        free = self._pool.free
        while free < pages and (evicted := self._shelf.evict()) is not None:
            self._pool.give_back(runs_of(evicted))
            free += len(evicted)

    def make_states(self, lease: Lease, tokens: int) -> None:
        """Give a sequence pages for those hidden states of its first tokens that are not kept yet, if there are any."""
        hit, choice, pages = lease.hit, lease.variant.choice, tokens // self._pool.page_tokens
        for position in self._forks(lease.variant):
            lease.state_pages[position] = [-1] * pages
        for number, kept in enumerate(lease.held_states):
            lease.state_pages[hit.entry][hit.whole + number] = kept.pages[0]
        for page in range(hit.whole, pages):
            for position, states in lease.state_pages.items():
                is_kept = (
                    page < len(lease.stretches) and Key(lease.stretches[page], choice[:position]) in self._state_shelf
                )
                if is_kept or position <= lease.entry(page):
                    continue
                if (taken := self._take_state_page()) is None:
                    return
                states[page] = taken
                lease.own_state_pages.add(taken)

    def ran(self, lease: Lease, token_ids: Sequence[int], pages_at: Callable[[int], list[int]]) -> None:
        """Keep what a step has filled: a page once all its tokens have been run.

        Args:
            lease: of the sequence.
            token_ids: that have been run, after those before.
            pages_at: the pages that hold its n-th page of tokens, one a place.
        """
        page_tokens = self._pool.page_tokens
        full = len(lease.token_ids) // page_tokens
        lease.token_ids += token_ids
        for page in range(full, len(lease.token_ids) // page_tokens):
            before = lease.stretches[page - 1] if page else None
            stretch = self._stretches.after(before, lease.token_ids[page * page_tokens : (page + 1) * page_tokens])
            if page == len(lease.stretches):
                lease.stretches.append(stretch)
            assert lease.stretches[page] is stretch, "other tokens were run than those that were announced"
            self._keep(lease, page, pages_at(page))

    def give_up(self, lease: Lease) -> None:
        """End a lease. What is of use to most prompts, its first pages, will be evicted last."""
        for kept in reversed(lease.held):
            self._shelf.release(kept)
        for kept in reversed(lease.held_states):
            self._state_shelf.release(kept)
        if self._states is not None:
            self._states.free += lease.own_state_pages

    def _find(self, variant: Variant, stretches: Sequence[Stretch], *, full: int) -> Hit:
        """How far a prompt is known, if at most `full` pages of it may be known at every position."""
        choice = variant.choice
        depths = [*self._depths(choice, stretches)]
        whole = next((page for page, depth in enumerate(depths[:full]) if depth < len(choice)), min(full, len(depths)))
        best, saved = Hit(whole), 0
        for entry in self._forks(variant):
            resumed = 0
            for depth, stretch in zip(depths[whole:], stretches[whole:], strict=False):
                if depth < entry or Key(stretch, choice[:entry]) not in self._state_shelf:
                    break
                resumed += 1
            layers = sum(self._widths(variant)[:entry])
            if resumed * layers > saved:
                best, saved = Hit(whole, resumed, entry), resumed * layers
        return best

    def _depths(self, choice: tuple[bool, ...], stretches: Sequence[Stretch]) -> Iterator[int]:
        """For each page, up to the first that is not known at all, below which position it is known."""
        ways = [choice[: position + 1] for position in range(len(choice))]
        for stretch in stretches:
            depth = next((top for top, way in enumerate(ways) if Key(stretch, way) not in self._shelf), len(choice))
            if not depth:
                return
            yield depth

    def _keep(self, lease: Lease, page: int, pages_K: Sequence[int]) -> None:
        stretch, choice, entry = lease.stretches[page], lease.variant.choice, lease.entry(page)
        place = 0
        for position, width in enumerate(self._widths(lease.variant)):
            key = Key(stretch, choice[: position + 1])
            if position >= entry and key not in self._shelf:
                lease.held.append(self._shelf.add(key, tuple(pages_K[place : place + width])))
            place += width
        for position, pages in lease.state_pages.items():
            key = Key(stretch, choice[:position])
            if page < len(pages) and pages[page] in lease.own_state_pages and key not in self._state_shelf:
                lease.own_state_pages.remove(pages[page])
                lease.held_states.append(self._state_shelf.add(key, (pages[page],)))

    def _take_state_page(self) -> int | None:
        assert self._states is not None
        if self._states.free:
            return self._states.free.pop()
        evicted = self._state_shelf.evict()
        return evicted[0] if evicted else None

    def _widths(self, variant: Variant) -> list[int]:
        """Places that each position takes."""
        return [length if is_patched else 1 for is_patched, length in zip(variant.choice, self._lengths, strict=True)]


def forks(variant: Variant, sizes: Collection[Variant]) -> tuple[int, ...]:
    """The positions, counted from 0, at which other sizes part from this one; not the first: nothing is below it."""
    found = {
        next(number for number, pair in enumerate(zip(variant.choice, size.choice, strict=True)) if pair[0] != pair[1])
        for size in sizes
        if size != variant
    }
    return tuple(sorted(found - {0}))
