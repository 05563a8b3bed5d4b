"""Picking tokens, against a reference written the long way."""

import math
from typing import Any

import pytest
import torch

from anysize.engine.request import Sampling
from anysize.engine.sampler import Sampler

CPU = torch.device("cpu")
DRAWS = 4000


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
    sampler = Sampler(sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=7), CPU)

    counts = torch.zeros(10)
    for _ in range(DRAWS):
        counts[sampler.pick(logits)] += 1

    wanted = reference(logits.tolist(), temperature=temperature, top_k=top_k, top_p=top_p)
    for token, probability in enumerate(wanted):
        # Five standard deviations of a binomial share; a token with no chance is never drawn.
        margin = 5 * math.sqrt(probability * (1 - probability) / DRAWS)
        assert abs(float(counts[token]) / DRAWS - probability) <= margin, token


@pytest.mark.parametrize("seed", range(20))
def test_what_may_be_drawn_is_what_the_reference_keeps(seed: int):
    logits = random_logits(40, seed)
    top_k, top_p = 1 + seed % 7, 0.05 + 0.045 * seed
    sampler = Sampler(sampling(temperature=1.5, top_k=top_k, top_p=top_p, seed=seed), CPU)
    drawn = {sampler.pick(logits) for _ in range(300)}
    wanted = reference(logits.tolist(), temperature=1.5, top_k=top_k, top_p=top_p)
    assert drawn <= {token for token, probability in enumerate(wanted) if probability > 0}


def test_temperature_zero_takes_the_likeliest_token():
    for seed in range(10):
        logits = random_logits(300, seed)
        assert Sampler(sampling(temperature=0.0), CPU).pick(logits) == int(logits.argmax())


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others():
    def draws(seed: int) -> list[int]:
        sampler = Sampler(sampling(temperature=1.0, seed=seed), CPU)
        return [sampler.pick(random_logits(100, step)) for step in range(30)]

    assert draws(3) == draws(3)
    assert draws(3) != draws(4)
    assert draws((1 << 63) - 1) == draws((1 << 63) - 1)


def test_neighbours_do_not_disturb_a_seeded_request():
    logits = random_logits(100, 0)
    alone = Sampler(sampling(temperature=1.0, seed=5), CPU)
    wanted = [alone.pick(logits) for _ in range(20)]
    mine, other = Sampler(sampling(temperature=1.0, seed=5), CPU), Sampler(sampling(temperature=1.0, seed=6), CPU)
    got = []
    for _ in range(20):
        got.append(mine.pick(logits))
        other.pick(logits)
        torch.rand(1)
    assert got == wanted


def test_without_a_seed_two_requests_differ():
    logits = torch.zeros(10_000)
    first, second = (Sampler(sampling(temperature=1.0, seed=None), CPU) for _ in range(2))
    assert [first.pick(logits) for _ in range(4)] != [second.pick(logits) for _ in range(4)]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-45, 1e-40, 1e-10])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_tiny_temperature_takes_the_likeliest_token(temperature: float, scale: float):
    logits = scale * random_logits(50, seed=2)
    sampler = Sampler(sampling(temperature=temperature, top_p=0.9, top_k=40), CPU)
    assert {sampler.pick(logits) for _ in range(10)} == {int(logits.argmax())}


@pytest.mark.parametrize("top_p", [5e-324, 1e-300, 1e-45, 1e-10])
def test_a_tiny_top_p_keeps_the_likeliest_token(top_p: float):
    logits = random_logits(50, seed=2)
    sampler = Sampler(sampling(temperature=1.0, top_p=top_p), CPU)
    assert {sampler.pick(logits) for _ in range(10)} == {int(logits.argmax())}


def test_a_great_temperature_draws_any_token():
    sampler = Sampler(sampling(temperature=100.0), CPU)
    assert len({sampler.pick(random_logits(20, seed=2)) for _ in range(1000)}) == 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_huge_and_masked_logits_are_drawn_from(dtype: torch.dtype):
    logits = torch.tensor([6e4, -torch.inf, -6e4, 6e4], dtype=dtype)
    sampler = Sampler(sampling(temperature=1.0, top_p=0.99), CPU)
    assert {sampler.pick(logits) for _ in range(60)} == {0, 3}


def test_picking_leaves_the_logits_as_they_were():
    logits = random_logits(30, 0)
    before = logits.clone()
    Sampler(sampling(temperature=1.0, top_k=3, top_p=0.5), CPU).pick(logits)
    assert torch.equal(logits, before)
