"""Choosing kept layers by KL divergence, against trying every choice."""

import pytest
import torch
from fakes import tiny_config, tiny_model
from layer_measures import block_maps, pruned_kl

from anysize.errors import SettingsError
from anysize.family.architectures import architecture_of
from anysize.family.blocks import BlockMap
from anysize_training.distill.selection.kl import KLSelection
from anysize_training.distill.selection.selection import Selection


def search_on(architecture: str, ids, *, longest: int, seed: int = 0):
    model = tiny_model(tiny_config(architecture, 6), seed)
    return model, KLSelection(architecture_of(model.config, "tiny"), model, ids, longest_block=longest)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_each_greedy_step_drops_the_layer_that_is_missed_least(architecture: str) -> None:
    ids = torch.randint(3, 250, (3, 20))
    model, search = search_on(architecture, ids, longest=3)
    kept = tuple(range(6))
    for selection in search.greedy(3):
        rivals = {}
        for dropped in kept[1:]:
            smaller = tuple(layer for layer in kept if layer != dropped)
            if BlockMap(smaller, 6).longest <= 3:
                rivals[smaller] = pruned_kl(model, smaller, ids)
        kept = selection.blocks.kept
        assert selection.score == pytest.approx(min(rivals.values()), rel=1e-3, abs=1e-5)
        assert rivals[kept] == pytest.approx(selection.score, rel=1e-3, abs=1e-5)
    assert len(kept) == 3


def test_refining_ends_where_no_single_move_helps_wherever_it_begins() -> None:
    ids = torch.randint(3, 250, (3, 20))
    model, search = search_on("llama", ids, longest=4)
    everything = {blocks.kept: pruned_kl(model, blocks.kept, ids) for blocks in block_maps(6, 4, 4)}
    for kept, kl in everything.items():
        score = kl
        for selection in search.refine(Selection(BlockMap(kept, 6), kl), reach=6):
            kept = selection.blocks.kept
            assert selection.score == pytest.approx(everything[kept], rel=1e-3, abs=1e-5)
            assert everything[kept] < score + 1e-5
            score = everything[kept]
        neighbours = [kl for other, kl in everything.items() if len(set(kept) & set(other)) == 3]
        assert all(score <= kl + 1e-5 for kl in neighbours)


@pytest.mark.parametrize("seed", range(4))
def test_the_only_block_map_that_is_allowed_is_always_reached(seed: int) -> None:
    _, search = search_on("llama", torch.randint(3, 250, (1, 12)), longest=2, seed=seed)
    assert search.best(3).blocks.kept == (0, 2, 4)


def test_blocks_too_short_for_so_few_layers_are_refused() -> None:
    _, search = search_on("llama", torch.randint(3, 250, (1, 8)), longest=2)
    with pytest.raises(SettingsError, match="at most 2"):
        list(search.greedy(2))
