"""An answer that goes on on another size: what comes after is what that size makes of the tokens so far."""

import random
from collections import abc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import pytest
import torch
from asked import POSITIONS, bank_of
from fakes import ARCHITECTURES, VOCABULARY, Gate, Kind, long_winded_family
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import HashModel, StubSequence, WatchedModel, eventually, hashed_logits, running
from torch import Tensor

from anysize.engine.engine import Engine
from anysize.engine.model import Model, Row, Sequence
from anysize.engine.pace import LEAST_TOKENS, Pace
from anysize.engine.pressure import Pressure
from anysize.engine.request import Completion, GenerationRequest, Sampling
from anysize.errors import EngineError
from anysize.family.assembly import assemble
from anysize.family.variant import Variant

KINDS: tuple[Kind, ...] = get_args(Kind)
LADDER = [Variant.of(POSITIONS, patched) for patched in ([], [4], [3, 4], [2, 4], [1, 2, 3, 4])]
PAGE_TOKENS = 4


def run(model: Model, sequence: Sequence, token_ids: list[int], *, chunk: int) -> Tensor:
    """Run what is not stored of some tokens; logits [V] after the last of them."""
    logits_V = torch.empty(0)
    while sequence.length < len(token_ids):
        stop = min(len(token_ids), sequence.length + chunk)
        if sequence.length < sequence.border:
            stop = min(stop, sequence.border)
        row = Row(sequence, token_ids[sequence.length : stop], wants_logits=stop == len(token_ids))
        logits_RV = model.step([row])
        logits_V = logits_RV[0] if row.wants_logits else logits_V
    return logits_V


@torch.inference_mode()
def plain(bank: Any, variant: Variant, token_ids: list[int]) -> Tensor:
    """Logits [V] after some tokens by the size as a plain transformers model."""
    return assemble(bank, variant)(input_ids=torch.tensor([token_ids])).logits[0, -1]


sizes = st.one_of(st.sampled_from(LADDER), st.tuples(*[st.booleans()] * POSITIONS).map(Variant))


@pytest.mark.parametrize(
    ("architecture", "kind"), [(architecture, kind) for architecture in ARCHITECTURES for kind in KINDS]
)
@settings(max_examples=8)
@given(
    prompt=st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=20),
    stays=st.lists(st.tuples(sizes, st.integers(1, 9)), min_size=2, max_size=4),
    chunk=st.integers(1, 30),
    kv_bytes=st.sampled_from([100_000, 1 << 19]),
    is_cached=st.booleans(),
)
def test_each_token_is_that_of_the_present_size_after_the_same_tokens(
    architecture: str,
    kind: Kind,
    prompt: list[int],
    stays: list[tuple[Variant, int]],
    chunk: int,
    kv_bytes: int,
    is_cached: bool,
):
    bank = bank_of(architecture, kind)
    model = Model(bank, kv_bytes=kv_bytes, page_tokens=PAGE_TOKENS, shared_by=LADDER if is_cached else ())
    most = len(prompt) + sum(tokens for _, tokens in stays)
    token_ids, sequence = list(prompt), model.reserve(stays[0][0], most, prompt, keeps_answer=True)
    assume(sequence is not None)  # the longest do not fit into the smaller pool
    assert sequence is not None
    for variant, tokens in stays:
        if variant != sequence.variant:
            place = model.move(sequence, variant, most, token_ids)
            if place is None:
                continue
            sequence = place
            assert model.free_pages + model.used_pages == model.total_pages
        for _ in range(tokens):
            logits_V = run(model, sequence, token_ids, chunk=chunk)
            torch.testing.assert_close(logits_V, plain(bank, sequence.variant, token_ids), rtol=1e-4, atol=2e-5)
            token_ids.append(int(logits_V.argmax()))
    model.release(sequence)
    assert (model.used_pages, model.free_pages) == (0, model.total_pages)


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 4), (4, 0), (2, 1)])
def test_it_costs_less_than_the_prompt_and_answer_would_on_the_new_size(before: int, after: int):
    bank = bank_of("llama", "delta")
    model = Model(bank, kv_bytes=1 << 20, page_tokens=PAGE_TOKENS, shared_by=LADDER)
    token_ids = [3 + 7 * number % 90 for number in range(24)]
    sequence = model.reserve(LADDER[before], 64, token_ids, keeps_answer=True)
    assert sequence is not None
    while len(token_ids) < 50:
        token_ids.append(int(run(model, sequence, token_ids, chunk=16).argmax()))
    variant = LADDER[after]

    place = model.move(sequence, variant, 64, token_ids)

    assert place is not None
    part = next(number for number in range(POSITIONS) if LADDER[before].choice[number] != variant.choice[number])
    # Whole pages are taken up where the two sizes part; what is on the last page, which is not full, is run whole.
    assert (place.length, place.border) == ((0, 48) if part else (0, 0))
    blocks = bank.blocks.blocks[:part]
    below = sum(len(block) if patched else 1 for block, patched in zip(blocks, variant.choice, strict=False))
    depth = variant.depth(bank.blocks)
    layers_run = place.border * (depth - below) + (len(token_ids) - place.border) * depth
    assert layers_run < len(token_ids) * depth or part == 0


def test_a_size_that_has_been_left_is_known_when_it_comes_again():
    bank = bank_of("llama", "delta")
    model = Model(bank, kv_bytes=1 << 20, page_tokens=PAGE_TOKENS, shared_by=LADDER)
    token_ids = list(range(3, 40))
    sequence = model.reserve(LADDER[4], 64, token_ids, keeps_answer=True)
    assert sequence is not None
    run(model, sequence, token_ids, chunk=16)
    smaller = model.move(sequence, LADDER[1], 64, token_ids)
    assert smaller is not None
    run(model, smaller, token_ids, chunk=16)

    back = model.move(smaller, LADDER[4], 64, token_ids)

    assert back is not None
    assert back.length == 36


class Restless(Pressure):
    """Sends everybody to another size at each step."""

    chance = random.Random(0)

    def pick(self, top: int) -> int:
        return self.chance.randint(0, top)


@contextmanager
def restless(model: Any, family: Any, **given: int) -> Iterator[Engine]:
    with running(family, model, **given) as engine:
        scheduler = engine._ledger._scheduler
        scheduler._pressure = Restless(scheduler._limits)
        yield engine


def request(family: Any, number: int, prompt: int, answer: int, **given: Any) -> GenerationRequest:
    return GenerationRequest(
        id=f"gen-{number}",
        prompt_ids=[3 + (number + 5 * place) % 200 for place in range(prompt)],
        size=family.teacher,
        sampling=Sampling(max_tokens=answer),
        allowed=tuple(family.ladder),
        is_resizable=True,
        **given,
    )


def check_hashed(asked: GenerationRequest, completion: Completion) -> int:
    """Each token is the one that the size of its span gives after all before it; how many spans there are."""
    (choice,) = completion.choices
    token_ids = list(asked.prompt_ids)
    for span in choice.spans:
        assert span.tokens > 0
        for _ in range(span.tokens):
            token_ids.append(int(hashed_logits(span.size.variant, token_ids).argmax()))
    assert token_ids[len(asked.prompt_ids) :] == choice.token_ids
    assert sum(span.tokens for span in choice.spans) == len(choice.token_ids)
    assert completion.size is choice.spans[-1].size
    return len(choice.spans)


def test_requests_that_change_size_all_the_time_are_not_mixed_up():
    family, model = long_winded_family(), HashModel()
    with restless(model, family) as engine:
        asked = [request(family, number, 1 + 7 * number % 50, 10 + 11 * number % 50) for number in range(40)]
        futures = [engine.submit(one) for one in asked]
        spans = [check_hashed(one, future.result(timeout=60)) for one, future in zip(asked, futures, strict=True)]
        assert max(spans) > 3
        assert all(tokens >= LEAST_TOKENS for one in futures for tokens in lengths(one.result())[:-1])
    assert (model.held, model.free_pages) == ([], model.total_pages)


def lengths(completion: Completion) -> list[int]:
    return [span.tokens for span in completion.choices[0].spans]


def test_with_the_real_model_too_and_beside_others_whose_size_stays():
    family = long_winded_family()
    model = WatchedModel(family)
    with restless(model, family) as engine:
        asked = [request(family, number, 3 + number, 40) for number in range(6)]
        fixed = GenerationRequest(
            id="fixed", prompt_ids=[9, 8, 7], size=family.ladder[1], sampling=Sampling(max_tokens=30)
        )
        futures = [engine.submit(one) for one in [*asked, fixed]]
        for one, future in zip([*asked, fixed], futures, strict=True):
            completion = future.result(timeout=60)
            token_ids = list(one.prompt_ids)
            for span in completion.choices[0].spans:
                for _ in range(span.tokens):
                    token_ids.append(int(plain(family.bank, span.size.variant, token_ids).argmax()))
            assert completion.choices[0].token_ids == token_ids[len(one.prompt_ids) :]
        assert {span.size.id for span in futures[-1].result().choices[0].spans} == {family.ladder[1].id}
        assert max(len(future.result().choices[0].spans) for future in futures) > 2
        eventually(lambda: model.used_pages == 0)


class Immovable(HashModel):
    def move(self, sequence: StubSequence, variant: Variant, tokens: int, token_ids: abc.Sequence[int]) -> StubSequence:
        self.release(sequence)
        raise MemoryError


def test_a_move_that_fails_ends_that_request_alone(caplog: pytest.LogCaptureFixture):
    caplog.set_level("CRITICAL")
    family, model = long_winded_family(), Immovable()
    with restless(model, family) as engine:
        unlucky = engine.submit(request(family, 1, 5, 60))
        lucky = GenerationRequest(id="x", prompt_ids=[5], size=family.teacher, sampling=Sampling(max_tokens=60))
        other = engine.submit(lucky)
        with pytest.raises(EngineError, match="reserve memory"):
            unlucky.result(timeout=60)
        assert other.result(timeout=60).completion_tokens == 60
    assert model.held == []


def test_load_sends_who_allows_it_down_and_who_may_move_back_up():
    family, model, gate = long_winded_family(), HashModel(), Gate()
    smallest = family.ladder[0]
    with running(family, model, max_running_requests=4) as engine:
        model.before_step = gate
        first = engine.submit(request(family, 0, 4, 60))
        others = [
            engine.submit(
                GenerationRequest(
                    id=f"x{number}",
                    prompt_ids=[5, 6],
                    size=family.teacher,
                    sampling=Sampling(max_tokens=20),
                    allowed=tuple(family.ladder[1:]) if number % 2 else (),
                )
            )
            for number in range(7)
        ]
        gate.open()
        done = first.result(timeout=60)
        spans = [span.size.id for span in done.choices[0].spans]
        # It came to an empty engine, was sent down by those after it, and came up again once they were gone.
        assert smallest.id in spans
        assert spans[-1] == family.teacher.id
        check_hashed(request(family, 0, 4, 60), done)
        for number, future in enumerate(others):
            size = future.result(timeout=60).size
            if number % 2 == 0:
                assert size is family.teacher, "who does not allow it is never given less"
            else:
                assert size in family.ladder[1:], "the floor of whoever names one holds"
        # The queue was longer than the places: whoever allows it got its floor.
        assert others[1].result().size is family.ladder[1]


def test_an_answer_that_would_be_late_goes_on_on_smaller_sizes():
    family, model = long_winded_family(), HashModel()
    with running(family, model) as engine:
        late = engine.submit(request(family, 0, 4, 100, pace=Pace(total_ms=1e-3)))
        calm = engine.submit(request(family, 1, 4, 100, pace=Pace(total_ms=1e9)))
        assert [span.size.id for span in late.result(timeout=60).choices[0].spans] == [
            size.id for size in reversed(family.ladder)
        ]
        assert [span.size for span in calm.result(timeout=60).choices[0].spans] == [family.teacher]
