"""Stacks of teacher layers, against models that transformers makes and tensors are copied into."""

import pytest
import torch
from fakes import ARCHITECTURES, tiny_config, tiny_model
from stacked import is_linear, layer_tensors, logits_of, pruned_by_hand, some_tokens, stacked

from anysize.family.architectures import architecture_of
from anysize_training.stack import (
    StackLayer,
    build,
    parameters_of,
    plain_stack,
    sum_of,
)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_stack_of_teacher_layers_is_the_pruned_model(architecture: str, tied: bool) -> None:
    model = tiny_model(tiny_config(architecture, 6, tied=tied), 0)
    adapter = architecture_of(model.config, "tiny")
    # Neither the first layer nor the last is kept.
    made = build(model, adapter, plain_stack([1, 2, 4]))
    by_hand = pruned_by_hand(model, [1, 2, 4])
    ids = some_tokens(3, 30)
    assert torch.equal(logits_of(made, ids), logits_of(by_hand, ids))
    assert {tensor.data_ptr() for tensor in made.parameters()} <= {tensor.data_ptr() for tensor in model.parameters()}
    counted = parameters_of(made, adapter)
    twice = model.config.vocab_size * model.config.hidden_size if tied else 0
    assert counted == sum(tensor.numel() for tensor in by_hand.parameters()) + twice


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_sum_of_layers_is_the_sum_of_their_tensors(architecture: str) -> None:
    model = tiny_model(tiny_config(architecture, 6), 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    summed = StackLayer(4, ((1, -2), (4, 1), (5, 2)), ((3, 1),))
    made = build(model, architecture_of(model.config, "tiny"), (*plain_stack([0]), summed))
    one, three, four, five = (layer_tensors(model, layer) for layer in (1, 3, 4, 5))
    merged = {name: four[name] - 2 * one[name] + 2 * five[name] if is_linear(name) else three[name] for name in four}
    by_hand = stacked(model, [layer_tensors(model, 0), merged], [0, 4])
    ids = some_tokens(2, 30)
    torch.testing.assert_close(logits_of(made, ids), logits_of(by_hand, ids), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_sums_of_sums_leave_out_what_cancels() -> None:
    assert sum_of([(((1, 1), (2, 3)), 2), (((2, 6), (4, 1)), -1)]) == ((1, 2), (4, -1))
