"""Choosing kept layers by measurement, against trying every choice."""

from itertools import combinations

import pytest
import torch
from fakes import tiny_bank, tiny_config, tiny_model

from anysize.errors import SettingsError
from anysize.family.architectures import architecture_of
from anysize.family.assembly import kept_layers
from anysize.family.blocks import BlockMap
from anysize_training.distill.selection import KLSelection


def pruned_kl(bank, kept: tuple[int, ...], ids) -> float:
    """KL from the definition, by running the pruned teacher as a model."""
    pruned = kept_layers(bank.teacher, bank.architecture, BlockMap(kept, 6))
    with torch.no_grad():
        ours = pruned(ids).logits.double().log_softmax(-1)
        theirs = bank.teacher(ids).logits.double().log_softmax(-1)
    return (theirs.exp() * (theirs - ours)).sum(-1).mean().item()


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_each_greedy_step_drops_the_layer_that_is_missed_least(architecture: str) -> None:
    bank = tiny_bank(architecture)
    ids = torch.randint(3, 250, (3, 20))
    search = KLSelection(bank.architecture, bank.teacher, ids, longest_block=3)
    kept = tuple(range(6))
    for selection in search.greedy(3):
        rivals = {}
        for dropped in kept[1:]:
            smaller = tuple(layer for layer in kept if layer != dropped)
            if BlockMap(smaller, 6).longest <= 3:
                rivals[smaller] = pruned_kl(bank, smaller, ids)
        kept = selection.blocks.kept
        assert selection.kl == pytest.approx(min(rivals.values()), rel=1e-3, abs=1e-5)
        assert rivals[kept] == pytest.approx(selection.kl, rel=1e-3, abs=1e-5)
    assert len(kept) == 3


def test_refining_ends_where_no_single_move_helps() -> None:
    bank = tiny_bank("llama")
    ids = torch.randint(3, 250, (3, 20))
    search = KLSelection(bank.architecture, bank.teacher, ids, longest_block=4)
    *_, start = search.greedy(3)
    best = start
    for selection in search.refine(start, reach=6):
        assert selection.kl < best.kl
        best = selection
    everything = {
        (0, *rest): pruned_kl(bank, (0, *rest), ids)
        for rest in combinations(range(1, 6), 2)
        if BlockMap((0, *rest), 6).longest <= 4
    }
    neighbours = [kl for kept, kl in everything.items() if len(set(kept) & set(best.blocks.kept)) == 2]
    assert all(best.kl <= kl + 1e-5 for kl in neighbours)


def test_blocks_too_short_for_so_few_layers_are_refused() -> None:
    config = tiny_config("llama", 6)
    search = KLSelection(
        architecture_of(config, "tiny"), tiny_model(config, 0), torch.randint(3, 250, (1, 8)), longest_block=2
    )
    with pytest.raises(SettingsError, match="at most 2"):
        list(search.greedy(2))
