"""Block Influence, against its definition on plain transformers and models built by hand."""

import pytest
import torch
from fakes import ARCHITECTURES, tiny_config, tiny_model
from hypothesis import assume, given
from hypothesis import strategies as st
from layer_measures import block_maps, states, with_idle_layers

from anysize.family.architectures import architecture_of
from anysize_training.distill.selection.block_influence import block_influence, select_by_influence
from anysize_training.trail import Trail


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_influence_is_one_less_the_mean_cosine_of_input_and_output(architecture: str) -> None:
    model = tiny_model(tiny_config(architecture, 5), 0)
    ids = torch.randint(3, 250, (6, 12), generator=torch.Generator().manual_seed(1))
    found = block_influence(Trail(architecture_of(model.config, "tiny"), ids), model)
    stream = [state.double() for state in states(model, ids)]
    for layer in range(5):
        before, after = stream[layer].flatten(0, 1), stream[layer + 1].flatten(0, 1)
        cosines = [(a @ b / (a.norm() * b.norm())).item() for a, b in zip(before, after, strict=True)]
        assert found[layer].item() == pytest.approx(1 - sum(cosines) / len(cosines), abs=1e-5)


def test_layers_that_do_nothing_go_first() -> None:
    model = with_idle_layers(2, 4)
    influence = block_influence(Trail(architecture_of(model.config, "tiny"), torch.randint(3, 250, (2, 12))), model)
    assert influence[[2, 4]].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert select_by_influence(influence, 4, longest_block=6).blocks.kept == (0, 1, 3, 5)


@given(st.data())
def test_the_least_influence_goes_as_far_as_the_longest_block_allows(data: st.DataObject) -> None:
    layers = data.draw(st.integers(2, 9))
    kept, longest = data.draw(st.integers(1, layers - 1)), data.draw(st.integers(1, layers))
    assume(kept * longest >= layers)
    influence = data.draw(st.lists(st.floats(0, 2), min_size=layers, max_size=layers))
    selection = select_by_influence(torch.tensor(influence, dtype=torch.float64), kept, longest_block=longest)
    totals = [sum(influence[layer] for layer in blocks.dropped()) for blocks in block_maps(layers, kept, longest)]
    assert selection.score == pytest.approx(min(totals), abs=1e-9)
    assert selection.blocks.longest <= longest
    if longest == layers:  # nothing is forbidden, and ShortGPT's ranking stands
        ranked = sorted(range(1, layers), key=influence.__getitem__)[: layers - kept]
        assert selection.score == pytest.approx(sum(influence[layer] for layer in ranked), abs=1e-9)


def test_the_first_layer_stays_and_a_dead_end_of_the_ranking_is_avoided() -> None:
    influence = torch.tensor([0.0, 0.5, 0.1, 0.5, 0.2, 0.5], dtype=torch.float64)
    # Dropping layer 2 first, as the ranking says, leaves no way to three blocks of two.
    assert select_by_influence(influence, 3, longest_block=2).blocks.kept == (0, 2, 4)
