"""All methods through one call."""

from typing import get_args

import pytest
import torch
from fakes import tiny_config, tiny_model
from layer_measures import pruned_kl

from anysize.family.architectures import architecture_of
from anysize_training.distill.selection.choose import choose, compare
from anysize_training.distill.selection.selection import Method


@pytest.fixture(scope="module")
def model():
    return tiny_model(tiny_config("llama", 6), 0)


def windows(seed: int):
    return torch.randint(3, 250, (3, 16), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", get_args(Method))
def test_the_same_text_gives_the_same_layers_and_leaves_the_teacher_alone(method: Method, model) -> None:
    architecture = architecture_of(model.config, "tiny")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second = (
        choose(method, architecture, model, windows(1), student_layers=3, longest_block=3) for _ in range(2)
    )
    assert first == second
    assert first.blocks.student_layers == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_choices_are_scored_on_text_that_the_methods_do_not_see(model) -> None:
    architecture = architecture_of(model.config, "tiny")

    def outcomes(held_out):
        numbers = {"student_layers": 3, "longest_block": 4}
        return list(compare(get_args(Method), architecture, model, windows(1), held_out, **numbers))

    one, other = outcomes(windows(2)), outcomes(windows(3))
    assert [outcome.method for outcome in one] == list(get_args(Method))
    assert [outcome.selection for outcome in one] == [outcome.selection for outcome in other]
    for outcome in one:
        expected = pruned_kl(model, outcome.selection.blocks.kept, windows(2))
        assert outcome.kl == pytest.approx(expected, rel=1e-3, abs=1e-5)
