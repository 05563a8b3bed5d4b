"""Every size in one batch, against each variant alone under transformers' `generate`."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest
import torch
from asked import POSITIONS, SHAPE, Asked, bank_of, bank_of_config, check
from fakes import ARCHITECTURES, VOCABULARY, Kind, tiny_bank, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from anysize.engine.kernels.compiled import MOST_TOKENS
from anysize.engine.kernels.kernels import Kernels
from anysize.engine.linear import FastLinear
from anysize.engine.model import Model, Row
from anysize.errors import SettingsError
from anysize.family.int8 import quantize
from anysize.family.variant import Variant

KINDS: tuple[Kind, ...] = get_args(Kind)
either_way = pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
everywhere = pytest.mark.parametrize(
    ("architecture", "kind", "tied"),
    [(architecture, kind, tied) for architecture in ARCHITECTURES for kind in KINDS for tied in (True, False)],
)


requests = st.builds(
    Asked,
    choice=st.tuples(*[st.booleans()] * POSITIONS),
    prompt=st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=24),
    arrives=st.integers(0, 6),
    chunk=st.integers(1, 30),
    answer_tokens=st.integers(1, 8),
)


def serve(model: Model, asked: list[Asked]) -> None:
    """Run requests as they arrive, each with a place as soon as there are pages, until all are answered."""
    step = 0
    while not all(one.done for one in asked):
        for one in asked:
            if one.sequence is None and one.arrives <= step:
                one.sequence = model.reserve(one.variant, len(one.prompt) + one.answer_tokens)
        running = [one for one in asked if one.sequence is not None and not one.done]
        rows = [one.row() for one in running]
        logits_RV = iter(model.step(rows))
        for one, row in zip(running, rows, strict=True):
            if row.wants_logits:
                one.logits.append(next(logits_RV))
                one.answer.append(int(one.logits[-1].argmax()))
            if one.done:
                model.release(row.sequence)
        assert next(logits_RV, None) is None
        assert model.free_pages + model.used_pages == model.total_pages
        step += 1


@everywhere
@either_way
@settings(max_examples=4)
@given(asked=st.lists(requests, min_size=1, max_size=6), page_tokens=st.integers(1, 9))
def test_a_random_mix_of_sizes_answers_as_each_size_alone(
    kernels: Kernels, architecture: str, kind: Kind, tied: bool, compiled: bool, asked: list[Asked], page_tokens: int
):
    bank = bank_of(architecture, kind, tied)
    model = Model(bank, kv_bytes=1 << 17, page_tokens=page_tokens, kernels=kernels if compiled else None)

    serve(model, asked)

    for one in asked:
        check(bank, one)
    assert model.used_pages == 0


@either_way
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_pages_in_pieces_answer_as_pages_side_by_side(kernels: Kernels, architecture: str, kind: Kind, compiled: bool):
    bank = bank_of(architecture, kind)
    model = Model(bank, kv_bytes=1 << 17, page_tokens=2, kernels=kernels if compiled else None)
    small = [model.reserve(Variant.student(POSITIONS), 2) for _ in range(model.total_pages // POSITIONS)]
    for sequence in small[::2]:
        assert sequence is not None
        model.release(sequence)
    one = Asked((False, True, False, True), list(range(20, 40)), arrives=0, chunk=7, answer_tokens=6)
    one.sequence = model.reserve(one.variant, 26)
    assert one.sequence is not None
    assert any(len(runs) > 1 for runs in one.sequence.places)

    serve(model, [one])

    check(bank, one)


@pytest.mark.parametrize("kind", KINDS)
def test_each_linear_map_of_the_bank_is_applied_at_most_once_a_step(kind: Kind, monkeypatch: pytest.MonkeyPatch):
    bank = tiny_bank("llama", kind=kind, **SHAPE)
    calls = Counter[int]()
    apply = FastLinear.forward

    def count(self: FastLinear, x: Tensor) -> Tensor:
        calls[id(self.weight)] += 1
        return apply(self, x)

    monkeypatch.setattr(FastLinear, "forward", count)
    served = Model(bank, kv_bytes=1 << 18)
    variants = [Variant.student(4), Variant.of(4, [3, 4]), Variant.of(4, [1, 3]), Variant.teacher(4)]
    rows = []
    for number, variant in enumerate(variants):
        sequence = served.reserve(variant, 8)
        assert sequence is not None
        rows.append(Row(sequence, list(range(number + 1)), wants_logits=True))

    served.step(rows)

    assert set(calls.values()) == {1}
    linear = [module for m in (bank.teacher, bank.student) for module in m.modules() if isinstance(module, nn.Linear)]
    assert {id(module.weight) for module in linear} <= calls.keys()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_row_does_not_depend_on_its_neighbours(architecture: str):
    bank = bank_of(architecture, "delta")
    alone = Asked((True, False, False, True), list(range(30, 50)), arrives=0, chunk=6, answer_tokens=6)
    serve(Model(bank, kv_bytes=1 << 18), [alone])
    among = Asked(alone.choice, alone.prompt, arrives=0, chunk=6, answer_tokens=6)
    others = [
        Asked((patched, not patched, patched, patched), [9 + number], arrives=number, chunk=4, answer_tokens=8)
        for number, patched in enumerate((True, False, True, False))
    ]

    serve(Model(bank, kv_bytes=1 << 18), [*others, among])

    assert among.answer == alone.answer
    torch.testing.assert_close(torch.stack(among.logits), torch.stack(alone.logits), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", KINDS)
def test_with_kernels_an_answer_is_the_same_to_the_bit_whatever_its_neighbours(
    kernels: Kernels, architecture: str, kind: Kind
):
    bank = bank_of(architecture, kind)

    def answered(among: int) -> Asked:
        one = Asked((True, False, False, True), list(range(30, 50)), arrives=0, chunk=3, answer_tokens=9)
        others = [
            Asked(
                (number % 2 == 0, True, number > 2, False), [9 + number] * 2, arrives=number, chunk=2, answer_tokens=8
            )
            for number in range(among)
        ]
        serve(Model(bank, kv_bytes=1 << 18, kernels=kernels), [*others, one])
        return one

    alone = answered(0)
    for among in (1, 2, 3, 5, 9):
        assert torch.equal(torch.stack(answered(among).logits), torch.stack(alone.logits)), among


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt2"])
def test_a_step_of_not_too_many_tokens_goes_through_all_layers_in_one_call(
    kernels: Kernels, architecture: str, kind: Kind, monkeypatch: pytest.MonkeyPatch
):
    calls: list[tuple[int, int, int]] = []
    monkeypatch.setattr(kernels, "sweep", lambda *given, sweep=kernels.sweep: (calls.append(given), sweep(*given)))

    def calls_for(*tokens: int) -> int:
        calls.clear()
        asked = [Asked((True, False, False, True), list(range(30, 30 + count)), 0, 40, 1) for count in tokens]
        serve(Model(bank_of(architecture, kind), kv_bytes=1 << 20, kernels=kernels), asked)
        return len(calls)

    assert calls_for(8, 24) == (0 if architecture == "gpt2" else 1)
    assert calls_for(*[40] * (MOST_TOKENS // 40), MOST_TOKENS % 40 + 1) == 0


def test_kernels_have_the_cores_for_themselves(kernels: Kernels, monkeypatch: pytest.MonkeyPatch):
    before, seen = torch.get_num_threads(), list[int]()
    sweep = kernels.sweep

    def look(*given: int) -> None:
        seen.append(torch.get_num_threads())
        sweep(*given)

    monkeypatch.setattr(kernels, "sweep", look)
    torch.set_num_threads(2)
    try:
        serve(Model(bank_of("llama", "delta"), kv_bytes=1 << 17, kernels=kernels), [Asked((True,) * 4, [5], 0, 1, 3)])
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)

    assert set(seen) == {1}
    assert after == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_in_int8_answer_as_each_size_with_such_weights_alone(kernels: Kernels, architecture: str, kind: Kind):
    bank = tiny_bank(architecture, kind=kind, seed=5, **SHAPE)
    quantize(bank)
    asked = [
        Asked((patched, True, False, not patched), list(range(30, 70 - 9 * number)), number, 40, 7)
        for number, patched in enumerate((True, False, True))
    ]

    serve(Model(bank, kv_bytes=1 << 18, kernels=kernels), asked)

    for one in asked:
        check(bank, one)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotation_that_depends_on_length_depends_on_the_rows_own(kind: str):
    config = tiny_config("llama", 3)
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "original_max_position_embeddings": 16}
    config.max_position_embeddings = 16 if kind == "dynamic" else 64
    config.rope_parameters = {
        "rope_type": kind,
        "rope_theta": 10000.0,
        "factor": 2.0,
        **(factors if kind == "longrope" else {}),
    }
    bank = bank_of_config(config)
    asked = [
        Asked((False, True), list(range(40, 40 + tokens)), arrives=arrives, chunk=30, answer_tokens=6)
        for tokens, arrives in ((26, 0), (3, 0), (13, 1), (5, 2))
    ]

    serve(Model(bank, kv_bytes=1 << 17), asked)

    for one in asked:
        check(bank, one)


@pytest.mark.parametrize(
    ("architecture", "own"),
    [
        ("qwen2", {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
        ("gpt2", {"scale_attn_weights": False}),
    ],
    ids=["alternating windows", "unscaled"],
)
@either_way
def test_attention_follows_what_a_config_says_of_it(
    kernels: Kernels, architecture: str, own: dict[str, object], compiled: bool
):
    config = tiny_config(architecture, 3)
    for name, value in own.items():
        setattr(config, name, value)
    bank = bank_of_config(config)
    asked = [Asked((patched, True), list(range(40, 64)), 0, chunk, 6) for patched in (False, True) for chunk in (9, 24)]

    serve(Model(bank, kv_bytes=1 << 17, kernels=kernels if compiled else None), asked)

    for one in asked:
        check(bank, one)


@either_way
def test_pages_that_a_poisoned_row_left_behind_harm_nobody(kernels: Kernels, compiled: bool):
    bank = bank_of("qwen2", "delta")
    model = Model(bank, kv_bytes=1 << 16, kernels=kernels if compiled else None)
    sequence = model.reserve(Variant.teacher(POSITIONS), 64)
    assert sequence is not None
    for runs in sequence.places:
        for run in runs:
            slots = slice(run.start * model._pool.page_tokens, run.stop * model._pool.page_tokens)
            model._pool.keys_SGD[slots] = model._pool.values_SGD[slots] = torch.nan
    model.release(sequence)
    asked = [
        Asked((True, False, False, True), list(range(30, stop)), arrives=0, chunk=24, answer_tokens=6)
        for stop in (37, 50)
    ]

    serve(model, asked)

    for one in asked:
        check(bank, one)


def test_a_step_that_failed_can_be_brought_again(monkeypatch: pytest.MonkeyPatch):
    bank = bank_of("llama", "full")
    model = Model(bank, kv_bytes=1 << 18)
    one = Asked((True, False, False, True), list(range(30, 50)), arrives=0, chunk=6, answer_tokens=6)
    one.sequence = model.reserve(one.variant, 26)
    assert one.sequence is not None
    model.step([one.row()])
    logits, failing = model._sweep._ends.logits, iter([True])

    def fail_once(*given: object) -> Tensor:
        if next(failing, False):
            raise RuntimeError("planted")
        return logits(*given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(model._sweep._ends, "logits", fail_once)
    with pytest.raises(RuntimeError, match="planted"):
        model.step([one.row()])
    assert one.sequence.length == 6

    serve(model, [one])

    check(bank, one)


def test_two_models_of_one_bank_run_side_by_side():
    bank = bank_of("qwen3", "delta")

    def run(seed: int) -> list[Asked]:
        asked = [
            Asked(choice, list(range(seed + 10, seed + 20)), arrives=0, chunk=3, answer_tokens=8)
            for choice in ((True,) * 4, (False,) * 4, (False, True, False, True))
        ]
        serve(Model(bank, kv_bytes=1 << 18), asked)
        return asked

    with ThreadPoolExecutor(4) as threads:
        for asked in threads.map(run, range(8)):
            for one in asked:
                check(bank, one)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bank_is_as_it_was(kind: Kind):
    bank = tiny_bank("gpt2", kind=kind, **SHAPE)
    before = [tensor.clone() for tensor in bank.tensors()]
    one = Asked((True, False, False, True), [5, 6, 7], arrives=0, chunk=2, answer_tokens=3)

    serve(Model(bank, kv_bytes=1 << 18), [one])

    assert all(torch.equal(old, new) for old, new in zip(before, bank.tensors(), strict=True))
    assert {model.config._attn_implementation for model in (bank.teacher, bank.student)} == {"sdpa"}


def test_a_place_is_given_when_there_are_pages_and_only_then():
    bank = bank_of("llama", "delta")
    page_bytes = 2 * 4 * 2 * 8 * 4
    model = Model(bank, kv_bytes=20 * page_bytes, page_tokens=4)
    student, teacher = Variant.student(POSITIONS), Variant.teacher(POSITIONS)
    assert model.total_pages == 20
    assert model.fits(teacher, 8)
    assert not model.fits(teacher, 9)
    assert model.fits(student, 20)

    first = model.reserve(teacher, 5)
    assert first is not None
    assert (first.variant, first.length, first.capacity) == (teacher, 0, 8)
    assert (model.used_pages, model.free_pages) == (16, 4)
    assert model.reserve(teacher, 1) is None
    assert model.reserve(student, 5) is None
    assert model.reserve(student, 4) is not None
    model.release(first)
    assert (model.used_pages, model.free_pages) == (4, 16)


def test_too_little_memory_for_one_token_is_refused():
    with pytest.raises(SettingsError, match="too few"):
        Model(bank_of("llama", "delta"), kv_bytes=4096)


def test_a_step_without_rows_has_no_logits():
    assert len(Model(bank_of("llama", "delta"), kv_bytes=1 << 18).step([])) == 0
