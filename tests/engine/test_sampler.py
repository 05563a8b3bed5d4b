"""Picking tokens, against a reference written the long way."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from anysize.engine import sampler as sampler_module
from anysize.engine.draw import draw
from anysize.engine.draws import draw_together
from anysize.engine.request import Sampling
from anysize.engine.sampler import Sampler, pick
from anysize.errors import EngineError

DRAWS = 4000
ROWS = 200


def sampling(**given: Any) -> Sampling:
    return Sampling(**{"max_tokens": 1, "seed": 0, **given})


def reference(logits: list[float], *, temperature: float, top_k: int, top_p: float) -> list[float]:
    """Probabilities, in plain Python: temperature, then top-k, then top-p, then to a sum of 1."""
    scaled = [value / temperature for value in logits]
    likeliest_first = sorted(range(len(logits)), key=lambda token: -scaled[token])
    kept = likeliest_first[:top_k] if top_k else likeliest_first
    weights = {token: math.exp(scaled[token] - scaled[likeliest_first[0]]) for token in kept}
    total = sum(weights.values())
    nucleus: dict[int, float] = {}
    for token in kept:
        if sum(nucleus.values()) / total >= top_p:
            break
        nucleus[token] = weights[token]
    return [nucleus.get(token, 0.0) / sum(nucleus.values()) for token in range(len(logits))]


def one(sampler: Sampler, logits: torch.Tensor) -> int:
    """The next token of a batch of one."""
    return pick(logits[None], [sampler])[0].token_id


def random_logits(size: int, seed: int) -> torch.Tensor:
    return 2 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, 0, 1.0),
        (0.5, 0, 1.0),
        (3.0, 0, 1.0),
        (1.0, 3, 1.0),
        (1.0, 0, 0.6),
        (1.7, 5, 0.8),
        (0.7, 1, 1.0),
        (1, 99, 1),
    ],
)
def test_frequencies_follow_the_reference(temperature: float, top_k: int, top_p: float):
    logits = random_logits(10, seed=1)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    samplers = [Sampler(sampling(**options, seed=seed)) for seed in range(ROWS)]

    counts = torch.zeros(10)
    for _ in range(DRAWS // ROWS):
        for picked in pick(logits.expand(ROWS, -1), samplers):
            counts[picked.token_id] += 1

    wanted = reference(logits.tolist(), temperature=temperature, top_k=top_k, top_p=top_p)
    for token, probability in enumerate(wanted):
        # Five standard deviations of a binomial share; a token with no chance is never drawn.
        margin = 5 * math.sqrt(probability * (1 - probability) / DRAWS)
        assert abs(float(counts[token]) / DRAWS - probability) <= margin, token


@pytest.mark.parametrize("seed", range(20))
def test_what_may_be_drawn_is_what_the_reference_keeps(seed: int):
    logits = random_logits(40, seed)
    top_k, top_p = 1 + seed % 7, 0.05 + 0.045 * seed
    sampler = Sampler(sampling(temperature=1.5, top_k=top_k, top_p=top_p, seed=seed))
    drawn = {one(sampler, logits) for _ in range(300)}
    wanted = reference(logits.tolist(), temperature=1.5, top_k=top_k, top_p=top_p)
    assert drawn <= {token for token, probability in enumerate(wanted) if probability > 0}


def test_temperature_zero_takes_the_likeliest_token():
    for seed in range(10):
        logits = random_logits(300, seed)
        assert one(Sampler(sampling(temperature=0.0)), logits) == int(logits.argmax())


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=130, max_size=130), min_size=1, max_size=3), st.integers(1, 130))
def test_of_equal_logits_the_first_token_is_taken_in_any_vocabulary(rows: list[list[int]], vocabulary: int):
    logits_RV = torch.tensor(rows, dtype=torch.float32)[:, :vocabulary]

    picks = pick(logits_RV, [Sampler(sampling(temperature=0)) for _ in rows])

    assert [picked.token_id for picked in picks] == [row.index(max(row[:vocabulary])) for row in rows]


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others():
    def draws(seed: int) -> list[int]:
        sampler = Sampler(sampling(temperature=1.0, seed=seed))
        return [one(sampler, random_logits(100, step)) for step in range(30)]

    assert draws(3) == draws(3)
    assert draws(3) != draws(4)
    assert draws((1 << 63) - 1) == draws((1 << 63) - 1)


def test_neighbours_do_not_disturb_a_seeded_request():
    logits = random_logits(100, 0)
    alone = Sampler(sampling(temperature=1.0, seed=5))
    wanted = [one(alone, logits) for _ in range(20)]
    mine, other = Sampler(sampling(temperature=1.0, seed=5)), Sampler(sampling(temperature=1.0, seed=6))
    got = []
    for _ in range(20):
        got.append(one(mine, logits))
        one(other, logits)
        torch.rand(1)
    assert got == wanted


def test_without_a_seed_two_requests_differ():
    logits = torch.zeros(10_000)
    first, second = (Sampler(sampling(temperature=1.0, seed=None)) for _ in range(2))
    assert [one(first, logits) for _ in range(4)] != [one(second, logits) for _ in range(4)]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-45, 1e-40, 1e-10])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_tiny_temperature_takes_the_likeliest_token(temperature: float, scale: float):
    logits = scale * random_logits(50, seed=2)
    sampler = Sampler(sampling(temperature=temperature, top_p=0.9, top_k=40))
    assert {one(sampler, logits) for _ in range(10)} == {int(logits.argmax())}


@pytest.mark.parametrize("top_p", [5e-324, 1e-300, 1e-45, 1e-10])
def test_a_tiny_top_p_keeps_the_likeliest_token(top_p: float):
    logits = random_logits(50, seed=2)
    sampler = Sampler(sampling(temperature=1.0, top_p=top_p))
    assert {one(sampler, logits) for _ in range(10)} == {int(logits.argmax())}


def test_a_great_temperature_draws_any_token():
    sampler = Sampler(sampling(temperature=100.0))
    assert len({one(sampler, random_logits(20, seed=2)) for _ in range(1000)}) == 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_huge_and_masked_logits_are_drawn_from(dtype: torch.dtype):
    logits = torch.tensor([6e4, -torch.inf, -6e4, 6e4], dtype=dtype)
    sampler = Sampler(sampling(temperature=1.0, top_p=0.99))
    assert {one(sampler, logits) for _ in range(60)} == {0, 3}


def test_picking_leaves_the_logits_as_they_were():
    logits = random_logits(30, 0)
    before = logits.clone()
    one(Sampler(sampling(temperature=1.0, top_k=3, top_p=0.5)), logits)
    assert torch.equal(logits, before)


OPTIONS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.5]),
        "top_k": st.sampled_from([0, 1, 5, 50, 1500]),
        "top_p": st.sampled_from([1.0, 0.9, 0.5, 0.999]),
        "min_p": st.sampled_from([0.0, 0.01, 0.3]),
        "repetition_penalty": st.sampled_from([1.0, 1.3, 0.8]),
        "seed": st.integers(0, 5),
        "logprobs": st.sampled_from([None, 0, 3]),
    }
)
SEEN = (1, 3, 3, 7, 1999)


def transformers_probabilities(logits_V: torch.Tensor, given: Any) -> torch.Tensor:
    """What transformers' own processors make of logits."""
    steps: list[LogitsProcessor] = []
    if given["repetition_penalty"] != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(given["repetition_penalty"]))
    steps.append(TemperatureLogitsWarper(given["temperature"]))
    if given["top_k"]:
        steps.append(TopKLogitsWarper(given["top_k"]))
    if given["top_p"] < 1:
        steps.append(TopPLogitsWarper(given["top_p"]))
    if given["min_p"]:
        steps.append(MinPLogitsWarper(given["min_p"]))
    processed_1V = LogitsProcessorList(steps)(torch.tensor([SEEN]), logits_V[None].clone())  # pyright: ignore
    return processed_1V[0].double().softmax(dim=0)


@given(OPTIONS.filter(lambda options: options["temperature"] != 0), st.integers(0, 9), st.floats(0, 0.999))
@settings(max_examples=100)
def test_a_drawn_token_is_the_one_that_transformers_processors_put_there(
    options: dict[str, Any], seed: int, uniform: float
):
    logits = random_logits(2000, seed)
    sampler = Sampler(sampling(**options), SEEN)
    sampler.uniform = lambda: uniform
    token = one(sampler, logits)
    probabilities_V = transformers_probabilities(logits, options)
    assert probabilities_V[token] > 0
    truncates = options["top_k"] or options["top_p"] < 1 or options["min_p"]
    order_V = probabilities_V.argsort(descending=True) if truncates else torch.arange(2000)
    place = int((order_V == token).nonzero())
    upto = float(probabilities_V[order_V[: place + 1]].sum())
    # The running sums pass the number within this token's own share, but for rounding.
    assert upto - float(probabilities_V[token]) - 1e-4 <= uniform <= upto + 1e-4


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.99])
def test_the_nucleus_is_a_share_of_all_tokens_however_many(top_p: float):
    logits = random_logits(4000, seed=8)
    sampler = Sampler(sampling(temperature=2.0, top_p=top_p))
    sampler.uniform = lambda: 1 - 2**-53
    options = {"repetition_penalty": 1, "temperature": 2.0, "top_k": 0, "top_p": top_p, "min_p": 0}
    probabilities_V = transformers_probabilities(logits, options)
    kept = probabilities_V.argsort(descending=True)[: int((probabilities_V > 0).sum())]
    assert one(sampler, logits) in kept[-2:].tolist()  # the border may round to either side


def test_tokens_as_likely_as_the_likeliest_pass_any_min_p():
    sampler = Sampler(sampling(temperature=1.0, min_p=1.0))
    assert {one(sampler, torch.tensor([2.0, 1.0, 2.0])) for _ in range(60)} == {0, 2}


@given(st.lists(OPTIONS, min_size=2, max_size=6), st.integers(0, 9))
@settings(max_examples=25)
def test_a_row_gets_the_same_picks_alone_and_among_any_neighbours(rows: list[dict[str, Any]], seed: int):
    batch = [Sampler(sampling(**options), SEEN) for options in rows]
    alone = [Sampler(sampling(**options), SEEN) for options in rows]
    for step in range(3):
        logits_RV = torch.stack([random_logits(2000, 100 * seed + 10 * step + row) for row in range(len(rows))])
        together = pick(logits_RV, batch)
        assert together == [
            pick(logits_V[None], [sampler])[0] for logits_V, sampler in zip(logits_RV, alone, strict=True)
        ]


@given(st.lists(OPTIONS, min_size=1, max_size=6), st.sampled_from([3, 50, 3000]), st.integers(0, 99))
@settings(max_examples=60)
def test_rows_together_draw_what_each_draws_alone(rows: list[dict[str, Any]], vocabulary: int, seed: int):
    options = [sampling(**one) for one in rows if one["temperature"]]
    logits_SV = torch.stack([random_logits(vocabulary, seed + row) for row in range(len(options))] or [torch.zeros(1)])
    uniforms = torch.rand(len(options), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    alone = [draw(logits_V, one, uniform) for logits_V, one, uniform in zip(logits_SV, options, uniforms, strict=False)]
    assert draw_together(logits_SV, options, uniforms) == alone


@pytest.mark.parametrize("stage", ["uniform", "_reported"])
def test_a_pick_that_failed_can_be_brought_again(monkeypatch: pytest.MonkeyPatch, stage: str):
    options = [
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 2.0},
        {"repetition_penalty": 9.0, "logprobs": 1},
        {"temperature": 1.0, "logprobs": 1, "seed": 4},
    ]
    rows, others = ([Sampler(sampling(**one), SEEN) for one in options] for _ in range(2))
    failing = iter([False, False, True] if stage == "uniform" else [False, True])
    owner = Sampler if stage == "uniform" else sampler_module
    whole = getattr(owner, stage)

    def fails_once(*given: Any) -> Any:
        if next(failing, False):
            raise MemoryError
        return whole(*given)

    logits_RV = random_logits(2000, seed=6).expand(len(rows), -1)
    with monkeypatch.context() as patched:
        patched.setattr(owner, stage, fails_once)
        with pytest.raises(MemoryError):
            pick(logits_RV, rows)
        again = [pick(logits_RV, rows) for _ in range(4)]
    assert again == [pick(logits_RV, others) for _ in range(4)]


@pytest.mark.parametrize("penalty", [0.5, 1.5, 10.0])
def test_what_was_picked_counts_as_seen(penalty: float):
    sampler = Sampler(sampling(temperature=0.0, repetition_penalty=penalty), [2])
    seen = [2]
    for step in range(20):
        logits = random_logits(12, step)
        wanted = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), logits[None].clone())  # pyright: ignore
        token = one(sampler, logits)
        assert token == int(wanted.argmax())
        seen.append(token)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_logprobs_are_those_of_the_model_whatever_the_options(temperature: float, count: int):
    logits = random_logits(15, seed=1)
    sampler = Sampler(sampling(temperature=temperature, top_k=2, repetition_penalty=3.0, logprobs=count), [1])
    picked = pick(logits[None], [sampler])[0]
    wanted = logits.log_softmax(dim=0)
    assert picked.logprob == pytest.approx(float(wanted[picked.token_id]))
    assert [one.token_id for one in picked.top] == wanted.argsort(descending=True)[:count].tolist()
    assert [one.logprob for one in picked.top] == pytest.approx(wanted.sort(descending=True).values[:count].tolist())


def test_a_token_that_cannot_be_has_a_logprob_that_json_can_say():
    logits = torch.tensor([0.0, -torch.inf])
    picked = pick(logits[None], [Sampler(sampling(logprobs=2))])[0]
    assert [one.logprob for one in picked.top] == [0.0, -9999.0]


@pytest.mark.parametrize("sample", [0, 1, 7])
def test_sample_k_of_a_seed_is_what_the_seed_plus_k_gives(sample: int):
    logits = random_logits(500, seed=3)
    first = Sampler(sampling(temperature=1.0, seed=11), sample=sample)
    second = Sampler(sampling(temperature=1.0, seed=11 + sample))
    assert [one(first, logits) for _ in range(8)] == [one(second, logits) for _ in range(8)]


@pytest.mark.parametrize(
    "values", [(0.0, math.nan, 1.0), (0.0, math.inf, 1.0), (-math.inf, -math.inf)], ids=["nan", "infinity", "no token"]
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error(values: tuple[float, ...], temperature: float):
    logits = torch.tensor(values)
    with pytest.raises(EngineError, match="no numbers"):
        one(Sampler(sampling(temperature=temperature)), logits)


def test_the_greatest_uniform_number_draws_a_token_that_has_a_chance():
    logits = torch.tensor([0.1, 0.2, 0.3, -torch.inf])
    for options in ({}, {"top_k": 3}):
        sampler = Sampler(sampling(temperature=0.7, **options))
        sampler.uniform = lambda: 1 - 2**-53
        assert one(sampler, logits) in range(3)
