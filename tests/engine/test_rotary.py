"""Turning tokens by their positions: as transformers does it, computed when a sequence is longer than all before."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from fakes import tiny_config
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from anysize.engine import rotary
from anysize.engine.rotary import Rotary
from anysize.engine.sequence import Row

packs = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 40)), min_size=1, max_size=4)
HIDDEN_1TD = torch.zeros(1, 1, 32)
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


class Place:
    """A sequence of which only the length counts here."""

    def __init__(self, length: int) -> None:
        self.length = length


def embedding(kind: str) -> nn.Module:
    config = tiny_config("llama", 1)
    config.rope_parameters = {"rope_type": kind, "rope_theta": 10000.0, **KINDS[kind]}
    return LlamaRotaryEmbedding(cast("Any", config))


def packed(rows: Sequence[tuple[int, int]]) -> tuple[list[Row], Tensor]:
    positions = [position for start, tokens in rows for position in range(start, start + tokens)]
    brought = [Row(cast("Any", Place(start)), [0] * tokens, wants_logits=False) for start, tokens in rows]
    return brought, torch.tensor([positions])


@pytest.mark.parametrize("kind", KINDS)
@given(steps=st.lists(packs, max_size=4))
def test_every_token_is_turned_by_its_own_position(kind: str, steps: list[list[tuple[int, int]]]):
    module = embedding(kind)
    turns = Rotary(module)

    for rows in steps:
        brought, positions_1T = packed(rows)
        for got_1TW, wanted_1TW in zip(
            turns.of(brought, HIDDEN_1TD, positions_1T), module(HIDDEN_1TD, positions_1T), strict=True
        ):
            torch.testing.assert_close(got_1TW, wanted_1TW)


def test_they_are_computed_when_a_sequence_is_longer_and_only_then(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rotary, "_FIRST_POSITIONS", 16)
    computed: list[int] = []
    compute = LlamaRotaryEmbedding.forward

    def count(self: LlamaRotaryEmbedding, x: Tensor, position_ids: Tensor) -> Any:
        computed.append(position_ids.shape[1])
        return compute(self, x, position_ids)

    monkeypatch.setattr(LlamaRotaryEmbedding, "forward", count)
    turns = Rotary(embedding("default"))

    for length in range(100):
        turns.of(*_one(length))

    assert computed == [16, 32, 64, 128]


def _one(length: int) -> tuple[list[Row], Tensor, Tensor]:
    brought, positions_1T = packed([(length, 1)])
    return brought, HIDDEN_1TD, positions_1T
