"""Which hidden states are compared, and how."""

import copy

import pytest
import torch
from fakes import ARCHITECTURES, tiny_bank
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from anysize.family.assembly import assemble
from anysize.family.blocks import BlockMap
from anysize.family.variant import Variant
from anysize_training.distill.alignment import HiddenStates, block_ends, cosine_distance
from anysize_training.distill.recipe import Objective


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


def states_of(model, architecture, objective, *, layers=(0, 2, 5), checkpointing=False):
    return HiddenStates(architecture, model, layers, objective, checkpointing=checkpointing)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hidden_states_are_those_of_transformers_and_leave_no_hook(architecture: str) -> None:
    bank = tiny_bank(architecture)
    model = assemble(bank, Variant.teacher(3))
    ids = torch.randint(3, 250, (2, 9))
    reference = model(ids, output_hidden_states=True).hidden_states
    last_before_norm = []
    norm = bank.architecture.norm_of(model)
    handle = norm.register_forward_pre_hook(lambda _module, inputs: last_before_norm.append(inputs[0]))
    model(ids)
    handle.remove()
    hooks = hooks_of(model)

    hidden, plain = states_of(model, bank.architecture, Objective())(ids, None)
    assert torch.equal(hidden, reference[-1])
    for got, expected in zip(plain, (reference[1], reference[3], last_before_norm[0]), strict=True):
        assert torch.equal(got, expected)

    objective = Objective(embedding_pair=True, last_pair="after_norm")
    _, authors = states_of(model, bank.architecture, objective)(ids, None)
    for got, expected in zip(authors, (reference[0], reference[1], reference[3], reference[-1]), strict=True):
        assert torch.equal(got, expected)
    assert hooks_of(model) == hooks


def hooks_of(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpointed_layers_give_the_same_states_and_gradients(architecture: str) -> None:
    bank = tiny_bank(architecture)
    ids = torch.randint(3, 250, (2, 9))
    results = []
    for checkpointing in (False, True):
        student = copy.deepcopy(bank.student).requires_grad_()
        model = states_of(student, bank.architecture, Objective(), layers=range(3), checkpointing=checkpointing)
        layer = bank.architecture.layers_of(student)[1]
        outside, inside = runs_of(layer), runs_of(next(layer.children()))
        hidden, states = model(ids, None)
        (hidden.square().mean() + sum(state.square().mean() for state in states)).backward()
        assert (len(outside), len(inside)) == (1, 1 + checkpointing)
        results.append((hidden, {name: parameter.grad for name, parameter in student.named_parameters()}))
    assert torch.equal(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        assert torch.equal(results[1][1][name], gradient), name


def runs_of(module) -> list[int]:
    """A list that grows with every run of a module."""
    runs: list[int] = []
    module.register_forward_hook(lambda *_: runs.append(1))
    return runs


def test_cosine_distance_counts_what_is_counted() -> None:
    ours, theirs = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    is_counted = torch.tensor([[True, False, True], [False, False, True]])
    expected = sum(1 - F.cosine_similarity(ours[b, t], theirs[b, t], dim=0) for b, t in ((0, 0), (0, 2), (1, 2)))
    torch.testing.assert_close(cosine_distance(ours, theirs, is_counted), expected)
    assert cosine_distance(ours, 3 * ours, is_counted).abs() < 1e-5
