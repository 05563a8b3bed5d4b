"""Naive pruning and ShortGPT, against their definitions on plain transformers and models built by hand."""

from itertools import pairwise

import pytest
import torch
from fakes import ARCHITECTURES, tiny_config, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from layer_measures import states, with_idle_layers
from stacked import pruned_by_hand, some_tokens
from transformers import PreTrainedModel

from anysize.errors import SettingsError
from anysize.family.architectures import architecture_of
from anysize.family.blocks import BlockMap
from anysize_training.stack import plain_stack
from anysize_training.study.baselines.baseline import pruned
from anysize_training.study.baselines.naive import naive_removals
from anysize_training.study.baselines.shortgpt import influence_removals


def removals(model: PreTrainedModel, ids: torch.Tensor, count: int, *, rescored: bool) -> tuple[int, ...]:
    return influence_removals(architecture_of(model.config, "tiny"), model, ids, count=count, rescored=rescored)


def influences(model: PreTrainedModel, ids: torch.Tensor) -> list[float]:
    """Of every layer, token by token."""
    stream = [state.double().flatten(0, 1) for state in states(model, ids)]
    found = []
    for before, after in pairwise(stream):
        cosines = [(a @ b / (a.norm() * b.norm())).item() for a, b in zip(before, after, strict=True)]
        found.append(1 - sum(cosines) / len(cosines))
    return found


# With these seeds the two rankings of the last two are not the same.
@pytest.mark.parametrize(("architecture", "seed"), [*zip(ARCHITECTURES, (3, 3, 3, 4, 11), strict=True)])
def test_shortgpt_ranks_once_or_after_each_removal(architecture: str, seed: int) -> None:
    model, ids = tiny_model(tiny_config(architecture, 6), seed), some_tokens(3, 20)
    whole = influences(model, ids)
    once = tuple(sorted(range(6), key=whole.__getitem__)[:5])
    assert removals(model, ids, 5, rescored=False) == once
    left, again = list(range(6)), []
    for _ in range(5):
        found = influences(pruned_by_hand(model, left), ids)
        again.append(left.pop(found.index(min(found))))
    assert removals(model, ids, 5, rescored=True) == tuple(again)
    assert (once != tuple(again)) == (architecture in ("gpt_neox", "gpt2"))


@pytest.mark.parametrize("rescored", [True, False])
def test_layers_that_do_nothing_go_first_be_it_the_first_one(rescored: bool) -> None:
    assert set(removals(with_idle_layers(0, 3), some_tokens(2, 12), 2, rescored=rescored)) == {0, 3}


def test_naive_pruning_drops_the_second_layer_and_every_other() -> None:
    assert naive_removals(30)[:14] == tuple(range(1, 28, 2))
    # What is left then is 0, 2, ..., 28, 29, of which 2, 6, ... go.
    assert naive_removals(30)[14:21] == tuple(range(2, 27, 4))


@given(st.integers(2, 20))
def test_naive_pruning_keeps_what_the_papers_student_keeps(half: int) -> None:
    kept = BlockMap.every_nth(2 * half, n=2, first=1, last=2).kept
    (model,) = pruned("naive", naive_removals(2 * half), 2 * half, [len(kept)])
    assert model.stack == plain_stack(kept)


def test_a_depth_that_naive_pruning_does_not_reach_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least 3 layers"):
        pruned("naive", naive_removals(10), 10, [5, 2])
