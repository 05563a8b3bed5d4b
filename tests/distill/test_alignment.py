"""Which hidden states are compared, and how."""

import pytest
import torch
from fakes import ARCHITECTURES, tiny_bank
from hypothesis import given
from hypothesis import strategies as st

from anysize.family.assembly import assemble
from anysize.family.blocks import BlockMap
from anysize.family.variant import Variant
from anysize_training.distill.alignment import block_ends, cosine_distance, recorded


@given(st.integers(2, 60), st.integers(1, 6), st.integers(1, 3), st.integers(1, 7))
def test_every_student_layer_is_aligned_with_the_layer_before_the_next_kept_one(
    layers: int, n: int, first: int, last: int
) -> None:
    if first + last > layers:
        return
    blocks = BlockMap.every_nth(layers, n=n, first=first, last=last)
    expected = [following - 1 for following in (*blocks.kept[1:], layers)]
    assert list(block_ends(blocks)) == expected


def test_the_cases_that_the_published_code_misaligns_are_right() -> None:
    # With every third layer of 36 that code pairs student layer 12 with teacher layer 35 instead of 34 (from 1).
    third = BlockMap.every_nth(36, n=3)
    assert block_ends(third)[11] == 33
    assert block_ends(third)[-1] == 35
    assert len(block_ends(BlockMap.every_nth(36, n=5))) == len(BlockMap.every_nth(36, n=5).kept)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recording_keeps_just_the_wanted_layers_and_leaves_no_hook(architecture: str) -> None:
    bank = tiny_bank(architecture)
    model = assemble(bank, Variant.teacher(3))
    ids = torch.randint(3, 250, (2, 9))
    reference = model(ids, output_hidden_states=True).hidden_states
    layers = bank.architecture.layers_of(assemble(bank, Variant.teacher(3)))
    fresh = assemble(bank, Variant.teacher(3))
    with recorded(bank.architecture.layers_of(fresh), (1, 4)) as outputs:
        fresh(ids)
    assert len(outputs) == 2
    # hidden_states[0] is the embedding, so layer k's output is entry k + 1.
    torch.testing.assert_close(outputs[0], reference[2], rtol=0, atol=0)
    torch.testing.assert_close(outputs[1], reference[5], rtol=0, atol=0)
    assert not any(layer._forward_hooks for layer in bank.architecture.layers_of(fresh))
    assert len(layers) == 6


def test_the_distance_is_zero_for_parallel_and_two_for_opposite_states() -> None:
    state = torch.randn(2, 3, 8)
    assert cosine_distance(state, 5 * state).item() == pytest.approx(0, abs=1e-5)
    assert cosine_distance(state, -state).item() == pytest.approx(2 * 6, abs=1e-5)
