"""Runs of tokens from the first one on, which are found by their tokens and by nothing else."""

import gc
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysize.engine import stretch as module
from anysize.engine.stretch import Stretch, Stretches


class Alike(bytes):
    """Bytes that all have the same hash."""

    def __hash__(self) -> int:
        return 0


@pytest.fixture
def constant_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = module._packed
    monkeypatch.setattr(module, "_packed", lambda token_ids: Alike(packed(token_ids)))
    monkeypatch.setattr(Stretch, "__hash__", lambda self: 0)


@given(tokens=st.lists(st.integers(0, 2**40), max_size=30), page_tokens=st.integers(1, 6), data=st.data())
def test_a_stretch_is_of_its_page_and_all_before(tokens: list[int], page_tokens: int, data: st.DataObject):
    known = Stretches()
    stretches = [*known.of(tokens, page_tokens)]
    assert len(stretches) == len(tokens) // page_tokens
    assert [*known.of(tokens, page_tokens)] == stretches
    if not tokens:
        return
    place = data.draw(st.integers(0, len(tokens) - 1))
    changed = [*known.of([*tokens[:place], tokens[place] + 1, *tokens[place + 1 :]], page_tokens)]
    assert [a is b for a, b in zip(stretches, changed, strict=True)] == [
        page < place // page_tokens for page in range(len(stretches))
    ]


@pytest.mark.usefixtures("constant_hashes")
def test_where_all_hashes_are_alike_none_of_10_000_is_taken_for_another():
    chance, known = random.Random(0), Stretches()
    by_tokens: dict[tuple[int, ...], Stretch] = {}
    looked_up = 0
    while looked_up < 10_000:
        tokens = chance.choices((0, 1), k=2 * chance.randint(1, 8))
        for page, found in enumerate(known.of(tokens, 2), start=1):
            assert by_tokens.setdefault(tuple(tokens[: 2 * page]), found) is found
            looked_up += 1
        if len(by_tokens) > 40:  # alike hashes make each look-up a search
            by_tokens.clear()
    assert len({id(one) for one in by_tokens.values()}) == len(by_tokens)


def test_what_nobody_holds_is_forgotten_however_long_it_is():
    known, last = Stretches(), None
    for page in range(20_000):  # more than could be forgotten by recursion
        last = known.after(last, [page, 0])
    gc.collect()
    assert len(known) == 20_000
    del last
    assert len(known) == 0
