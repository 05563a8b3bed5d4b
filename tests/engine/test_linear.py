"""Linear maps without kernels: each way computes the same, and the fastest of them is found by trying."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from anysize.engine import linear
from anysize.engine.linear import Ways

WEIGHTS = [torch.ones(8, 4), torch.ones(4, 8)]


@settings(max_examples=60)
@given(tokens=st.integers(1, 70), width=st.integers(1, 40), features=st.integers(1, 40), seed=st.integers(0, 99))
def test_every_way_is_the_product(tokens: int, width: int, features: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    x_TI, weight_OI = (torch.randn(count, width, generator=generator) for count in (tokens, features))
    for way in linear.ways():
        out_TO = way(x_TI, weight_OI)
        torch.testing.assert_close(out_TO, F.linear(x_TI, weight_OI), rtol=1e-4, atol=1e-4)
        assert out_TO.is_contiguous()


def test_the_fastest_way_is_taken_for_each_number_of_tokens(monkeypatch: pytest.MonkeyPatch):
    def slow_for_few(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        time.sleep(0.02 if len(x_TI) < 8 else 0.0)
        return F.linear(x_TI, weight_OI)

    def slow_for_many(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        time.sleep(0.02 if len(x_TI) >= 8 else 0.0)
        return F.linear(x_TI, weight_OI)

    monkeypatch.setattr(linear, "ways", lambda: (slow_for_few, slow_for_many))

    tried = Ways.tried(WEIGHTS)

    assert {tried.of(tokens) for tokens in range(1, 8)} == {slow_for_many}
    assert {tried.of(tokens) for tokens in (8, 9, 16, 63, 64, 1000)} == {slow_for_few}
