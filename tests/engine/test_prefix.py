"""What is kept of prompts: never another answer than without it, never a page lost, never one taken from its holder."""

from collections import Counter
from functools import partial
from typing import Any, get_args

import pytest
from asked import POSITIONS, SHAPE, Asked, bank_of, bank_of_config, check
from fakes import ARCHITECTURES, VOCABULARY, Kind, tiny_bank, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor, nn

from anysize.engine.kernels.kernels import Kernels
from anysize.engine.model import Model, Row, Sequence
from anysize.engine.prefix import forks
from anysize.engine.shelf import Kept, Key, Shelf
from anysize.engine.stretch import Stretch
from anysize.family.variant import Variant

KINDS: tuple[Kind, ...] = get_args(Kind)
PAGE_TOKENS = 4
LADDER = [Variant.of(POSITIONS, patched) for patched in ([], [4], [3, 4], [2, 4], [1, 2, 3], [1, 2, 3, 4])]
STUDENT, TEACHER = LADDER[0], LADDER[-1]


def model_over(
    bank: Any, kv_bytes: int = 1 << 18, page_tokens: int = PAGE_TOKENS, kernels: Kernels | None = None
) -> Model:
    return Model(bank, kv_bytes=kv_bytes, page_tokens=page_tokens, shared_by=LADDER, kernels=kernels)


def begin(model: Model, one: Asked) -> bool:
    """Give a request its place, if there is one; what is known of its prompt is not run."""
    one.sequence = model.reserve(one.variant, len(one.prompt) + one.answer_tokens, one.prompt)
    return one.sequence is not None


def advance(model: Model, running: list[Asked]) -> list[int]:
    """One step; how many tokens each ran."""
    rows = []
    for one in running:
        assert one.sequence is not None
        row = one.row()
        if one.sequence.length < one.sequence.border:
            token_ids = row.token_ids[: one.sequence.border - one.sequence.length]
            row = Row(one.sequence, token_ids, wants_logits=one.sequence.length + len(token_ids) == len(one.prompt))
        rows.append(row)
    logits_RV = iter(model.step(rows))
    for one, row in zip(running, rows, strict=True):
        if row.wants_logits:
            one.logits.append(next(logits_RV))
            one.answer.append(int(one.logits[-1].argmax()))
        if one.done:
            model.release(row.sequence)
    count_pages(model)
    return [len(row.token_ids) for row in rows]


def answer(model: Model, variant: Variant, prompt: list[int], *, chunk: int = 30, tokens: int = 5) -> Asked:
    """One request by itself."""
    one = Asked(variant.choice, prompt, arrives=0, chunk=chunk, answer_tokens=tokens)
    assert begin(model, one)
    while not one.done:
        advance(model, [one])
    return one


def known(model: Model, variant: Variant, prompt: list[int]) -> tuple[int, int, int]:
    """Tokens of a prompt that are known whole, those known in part after them, and up to which position."""
    assert model._cache is not None
    lease = model._cache.lease(variant, prompt)
    model._cache.give_up(lease)
    page_tokens = model._pool.page_tokens
    return lease.hit.whole * page_tokens, lease.hit.resumed * page_tokens, lease.hit.entry


def count_pages(model: Model) -> None:
    """Each page is free, or kept, or of one sequence; what nobody holds is counted."""
    cache = model._cache
    assert cache is not None
    free = [page for run in model._pool._free for page in run]
    kept = [page for one in cache._shelf._kept.values() for page in one.pages]
    assert len({*free, *kept}) == len(free) + len(kept), "a page is free and kept, or kept twice"
    for shelf in (cache._shelf, cache._state_shelf):
        idle = {key for key, one in shelf._kept.items() if not one.holders}
        assert idle == set(shelf._idle)
        assert shelf.idle_pages == sum(len(shelf._kept[key].pages) for key in idle)
    assert model.free_pages + model.used_pages == model.total_pages
    assert model.free_pages == len(free) + model.cached_pages
    if model.used_pages == 0:
        assert len(free) + len(kept) == model.total_pages
        if model._states is not None:
            states = [page for one in cache._state_shelf._kept.values() for page in one.pages]
            assert sorted([*model._states.free, *states]) == list(range(model._states.total))


prompts = st.builds(
    lambda cut, common, tail: [40 + (7 * number + common) % 60 for number in range(cut)] + tail,
    cut=st.integers(0, 20),
    common=st.integers(0, 1),
    tail=st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=6),
)
requests = st.builds(
    Asked,
    choice=st.one_of(st.sampled_from([size.choice for size in LADDER]), st.tuples(*[st.booleans()] * POSITIONS)),
    prompt=prompts,
    arrives=st.integers(0, 12),
    chunk=st.integers(1, 30),
    answer_tokens=st.integers(1, 6),
)


@pytest.mark.parametrize(
    ("architecture", "kind"), [(architecture, kind) for architecture in ARCHITECTURES for kind in KINDS]
)
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@settings(max_examples=5)
@given(
    asked=st.lists(requests, min_size=2, max_size=8),
    page_tokens=st.integers(1, 5),
    kv_bytes=st.sampled_from([40_000, 60_000, 1 << 18]),
    leavers=st.sets(st.integers(0, 7), max_size=2),
)
def test_a_random_mix_over_prompts_that_begin_alike_answers_as_each_size_alone(
    kernels: Kernels,
    architecture: str,
    kind: Kind,
    compiled: bool,
    asked: list[Asked],
    page_tokens: int,
    kv_bytes: int,
    leavers: set[int],
):
    bank = bank_of(architecture, kind)
    model = model_over(bank, kv_bytes, page_tokens, kernels if compiled else None)
    asked = [one for one in asked if model.fits(one.variant, len(one.prompt) + one.answer_tokens)]
    step, left = 0, set()
    while not all(one.done or number in left for number, one in enumerate(asked)):
        for one in asked:
            if one.sequence is None and one.arrives <= step:
                begin(model, one)
        running = [
            one for number, one in enumerate(asked) if one.sequence is not None and not one.done and number not in left
        ]
        for number in leavers - left:
            if number < len(asked) and asked[number] in running and len(asked[number].prompt) % 3 <= step % 3:
                running.remove(asked[number])
                left.add(number)
                gone = asked[number].sequence
                assert gone is not None
                model.release(gone)
        advance(model, running) if running else None
        step += 1

    for number, one in enumerate(asked):
        if number not in left:
            check(bank, one)
    assert model.used_pages == 0
    count_pages(model)


def test_where_all_hashes_are_alike_a_random_mix_answers_as_each_size_alone(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Stretch, "__hash__", lambda self: 0)
    test_a_random_mix_over_prompts_that_begin_alike_answers_as_each_size_alone(kernels, "llama", "delta", False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_prompt_again_runs_its_last_tokens_alone(architecture: str, kind: Kind):
    bank = bank_of(architecture, kind)
    model = model_over(bank)
    prompt = list(range(20, 40))
    first = answer(model, TEACHER, prompt)

    assert known(model, TEACHER, prompt) == (16, 4, 3)
    assert known(model, TEACHER, [*prompt, 9]) == (20, 0, 0)
    assert known(model, TEACHER, [*prompt[:10], 9, *prompt[10:]]) == (8, 0, 0)
    assert known(model, TEACHER, [9, *prompt]) == (0, 0, 0)
    again = answer(model, TEACHER, prompt)

    assert again.answer == first.answer
    check(bank, again)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_another_size_takes_the_prompt_up_where_the_two_part(architecture: str, kind: Kind):
    bank = bank_of(architecture, kind)
    prompt = list(range(20, 40))
    for first, second in [(one, other) for one in LADDER for other in LADDER if one != other]:
        model = model_over(bank)
        answer(model, first, prompt, chunk=7)
        parts_at = next(number for number in range(POSITIONS) if first.choice[number] != second.choice[number])

        expected = (0, 20, parts_at) if parts_at else (0, 0, 0)
        assert known(model, second, prompt) == expected
        assert known(model, second, [*prompt[:14], 9]) == ((0, 12, parts_at) if parts_at else (0, 0, 0))
        one = answer(model, second, prompt, chunk=9)

        check(bank, one)
        assert known(model, second, [*prompt, 9]) == (20, 0, 0)
        assert known(model, first, [*prompt, 9]) == (20, 0, 0)


def test_layers_below_the_first_difference_are_not_called_for_what_is_known():
    model = model_over(bank_of("llama", "full"))
    prompt = list(range(20, 40))
    answer(model, STUDENT, prompt)
    ran: Counter[str] = Counter()

    def count(name: str, _layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        ran[name] += args[0].shape[1]

    for ref, layer in model._sweep._layers._views.items():
        layer.register_forward_pre_hook(partial(count, f"{ref.owner} {ref.layer}"))

    one = Asked(LADDER[1].choice, prompt, arrives=0, chunk=30, answer_tokens=1)
    assert begin(model, one)
    advance(model, [one])

    assert one.done
    assert ran == {"teacher 6": 20, "teacher 7": 20}


def test_answers_to_one_prompt_share_its_pages_while_they_run():
    bank = bank_of("qwen2", "delta")
    model = model_over(bank)
    asked = [Asked(TEACHER.choice, list(range(30, 51)), 0, 30, 6) for _ in range(3)]
    assert begin(model, asked[0])
    used = model.used_pages
    advance(model, asked[:1])
    assert begin(model, asked[1])
    assert begin(model, asked[2])
    assert model.used_pages == used + 2 * 8 * 2, "two pages a place are not shared: the last tokens and the answer"
    advance(model, asked)
    first = asked[0].sequence
    assert first is not None
    model.release(first)  # who made the pages leaves before those who use them
    fill = answer(model, STUDENT, [9] * 30)

    while not all(one.done for one in asked[1:]):
        advance(model, asked[1:])

    for one in (*asked[1:], fill):
        check(bank, one)
    assert model.used_pages == 0


def test_an_answer_is_known_as_part_of_the_next_prompt():
    model = model_over(bank_of("llama", "delta"))
    prompt = list(range(20, 30))
    one = answer(model, TEACHER, prompt, tokens=9)

    assert known(model, TEACHER, [*prompt, *one.answer, 77, 78]) == (16, 0, 0)


def test_what_is_kept_makes_room_for_whoever_needs_it_and_first_pages_last():
    bank = bank_of("llama", "delta")
    model = model_over(bank, kv_bytes=40_000)
    prompt = list(range(20, 61))
    answer(model, STUDENT, prompt, tokens=1)
    kept = model.cached_pages
    assert kept == 40
    sequence = model.reserve(STUDENT, PAGE_TOKENS * ((model.total_pages - kept) // 4 + 5))
    assert sequence is not None

    assert 16 <= known(model, STUDENT, prompt)[0] <= 20, "five pages at every place were given up, the last ones"
    assert model.reserve(STUDENT, 4 * model.total_pages, prompt) is None
    count_pages(model)
    model.release(sequence)
    everything = model.reserve(STUDENT, PAGE_TOKENS * (model.total_pages // 4))
    assert everything is not None
    assert model.free_pages < 4
    model.release(everything)
    assert model.free_pages == model.total_pages


def test_a_step_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch):
    bank = bank_of("llama", "full")
    model = model_over(bank)
    prompt = list(range(20, 40))
    one = Asked(TEACHER.choice, prompt, arrives=0, chunk=9, answer_tokens=4)
    assert begin(model, one)
    advance(model, [one])
    monkeypatch.setattr(model._sweep._ends, "logits", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.step([one.row()])
    monkeypatch.undo()
    assert known(model, TEACHER, prompt) == (8, 0, 0)
    sequence = one.sequence
    assert sequence is not None
    model.release(sequence)

    assert known(model, TEACHER, prompt) == (8, 0, 0)
    check(bank, answer(model, TEACHER, prompt))
    count_pages(model)


def test_two_models_know_nothing_of_each_other():
    prompt = list(range(20, 40))
    model = model_over(bank_of("llama", "delta"))
    answer(model, TEACHER, prompt)

    assert known(model_over(tiny_bank("llama", kind="delta", seed=9, **SHAPE)), TEACHER, prompt) == (0, 0, 0)


@pytest.mark.parametrize("shared_by", [[], LADDER], ids=["off", "rotation by length"])
def test_nothing_is_kept_where_nothing_may_be(shared_by: list[Variant]):
    config = tiny_config("llama", 3)
    if shared_by:
        config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    model = Model(bank_of_config(config), kv_bytes=1 << 17, shared_by=shared_by)
    assert not model.keeps(1000)
    sequence = model.reserve(Variant.teacher(2), 20, range(20))
    assert sequence is not None
    model.step([Asked((True, True), list(range(20)), 0, 30, 1, sequence).row()])
    model.release(sequence)
    assert (model.cached_pages, model.free_pages) == (0, model.total_pages)


def test_sizes_part_at_their_first_difference():
    assert forks(STUDENT, LADDER) == (1, 2, 3)
    assert forks(TEACHER, LADDER) == (3,)
    assert forks(Variant.of(POSITIONS, [1]), LADDER) == (1,)


class ShelfMachine(RuleBasedStateMachine):
    """A shelf against counts kept by hand."""

    @initialize()
    def begin(self) -> None:
        self.shelf = Shelf()
        self.held: list[Kept] = []
        self.idle: list[Kept] = []  # least recently held first
        self.pages = 0
        self.stretches = [Stretch(None) for _ in range(10)]

    @rule(number=st.integers(0, 9), width=st.integers(1, 3))
    def add_or_hold(self, number: int, width: int) -> None:
        key = Key(self.stretches[number], (True,))
        if key in self.shelf:
            kept = self.shelf.hold(key)
            self.idle = [one for one in self.idle if one is not kept]
        else:
            kept = self.shelf.add(key, tuple(range(self.pages, self.pages + width)))
            self.pages += width
        self.held.append(kept)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        kept = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.shelf.release(kept)
        if kept not in self.held:
            self.idle.append(kept)

    @rule()
    def evict(self) -> None:
        expected = self.idle.pop(0).pages if self.idle else None
        assert self.shelf.evict() == expected

    @invariant()
    def counts(self) -> None:
        assert self.shelf.idle_pages == sum(len(one.pages) for one in self.idle)
        assert len(self.shelf) == len({id(one) for one in [*self.held, *self.idle]})
        for one in self.held:
            assert one.key in self.shelf
            assert one.holders == sum(other is one for other in self.held)


TestShelf = ShelfMachine.TestCase


def test_releasing_twice_is_caught():
    shelf = Shelf()
    kept = shelf.add(Key(Stretch(None), ()), (1,))
    shelf.release(kept)
    with pytest.raises(AssertionError, match="more often than held"):
        shelf.release(kept)


def test_pages_of_a_forgotten_release_are_missed():
    model = model_over(bank_of("llama", "delta"))
    prompt = list(range(20, 40))
    answer(model, TEACHER, prompt)
    lost: Sequence | None = model.reserve(TEACHER, 24, prompt)
    assert lost is not None
    assert model._cache is not None
    assert lost.lease is not None
    model._cache.give_up(lost.lease)  # its own pages are not given back

    assert model.used_pages > 0
    assert model.free_pages < model.total_pages
