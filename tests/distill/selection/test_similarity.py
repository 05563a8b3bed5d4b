"""Choosing by the similarity of layers, against plain transformers and models built by hand."""

import pytest
import torch
from fakes import ARCHITECTURES, tiny_config, tiny_model
from layer_measures import block_maps, states, with_idle_layers

from anysize.family.architectures import architecture_of
from anysize_training.distill.selection.similarity import pairwise_similarity, select_by_similarity


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_similarity_is_the_mean_cosine_of_what_two_layers_give(architecture: str) -> None:
    model = tiny_model(tiny_config(architecture, 5), 0)
    ids = torch.randint(3, 250, (6, 12), generator=torch.Generator().manual_seed(1))
    found = pairwise_similarity(architecture_of(model.config, "tiny"), model, ids)
    outputs = states(model, ids)[1:]
    assert found.shape == (5, 5)
    for i in range(5):
        for j in range(5):
            expected = torch.nn.functional.cosine_similarity(outputs[i].double(), outputs[j].double(), dim=-1).mean()
            assert found[i, j].item() == pytest.approx(expected.item(), abs=1e-5)


def test_layers_that_do_nothing_join_the_block_before_them() -> None:
    model = with_idle_layers(1, 2, 4)
    ids = torch.randint(3, 250, (2, 12))
    similarity = pairwise_similarity(architecture_of(model.config, "tiny"), model, ids)
    selection = select_by_similarity(similarity, 3, longest_block=6)
    assert selection.blocks.kept == (0, 3, 5)
    assert selection.score == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kept", [2, 3, 4])
@pytest.mark.parametrize("longest", [3, 6])
def test_no_choice_has_a_greater_mean_cosine(kept: int, longest: int) -> None:
    model = tiny_model(tiny_config("qwen3", 6), 3)
    ids = torch.randint(3, 250, (2, 12))
    outputs = states(model, ids)[1:]

    def mean(blocks) -> float:
        ends = [(outputs[block[0]].double(), outputs[block[-1]].double()) for block in blocks.blocks]
        cosines = [torch.nn.functional.cosine_similarity(*pair, dim=-1).mean().item() for pair in ends]
        return sum(cosines) / len(cosines)

    similarity = pairwise_similarity(architecture_of(model.config, "tiny"), model, ids)
    selection = select_by_similarity(similarity, kept, longest_block=longest)
    assert selection.score == pytest.approx(max(map(mean, block_maps(6, kept, longest))), abs=1e-5)
    assert selection.score == pytest.approx(mean(selection.blocks), abs=1e-5)
