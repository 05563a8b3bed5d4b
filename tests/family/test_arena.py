"""Weights in memory of their own, where vector loads find them whole."""

from itertools import pairwise

import pytest
import torch
from fakes import tiny_bank
from torch import nn

from anysize.family.arena import empty, settle


def test_a_bank_that_has_settled_is_the_same_bank():
    bank = tiny_bank("llama", kind="delta", tied=True)
    tensors = [*bank.tensors()]
    before = [tensor.clone() for tensor in tensors]

    bank.settle()

    assert all(one is other for one, other in zip(tensors, bank.tensors(), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(before, bank.tensors(), strict=True))
    named = dict(bank.teacher.named_parameters(remove_duplicate=False))
    assert named["lm_head.weight"] is named["model.embed_tokens.weight"]
    parameters = [tensor for tensor in tensors if isinstance(tensor, nn.Parameter)]
    assert all(parameter.data_ptr() % 64 == 0 for parameter in parameters)
    ends = sorted((parameter.data_ptr(), parameter.data_ptr() + parameter.nbytes) for parameter in parameters)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(ends)), "two of them overlap"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_tensors_that_lie_askew_are_moved(dtype: torch.dtype):
    memory = torch.arange(200, dtype=torch.int16).to(dtype)
    askew, other = memory[3:103].view(10, 10), torch.ones((), dtype=dtype)
    expected = askew.clone()

    settle([askew, other])
    memory.zero_()

    assert torch.equal(askew, expected)
    assert other == 1
    assert askew.data_ptr() % 64 == other.data_ptr() % 64 == 0


def test_nothing_is_nothing():
    settle([])


@pytest.mark.parametrize("shape", [(0, 2, 4), (3, 5, 7)])
def test_an_empty_tensor_may_be_written_all_over(shape: tuple[int, ...]):
    cpu = torch.device("cpu")
    one, other = (empty(shape, dtype=torch.float32, device=cpu) for _ in range(2))
    one.fill_(1)
    other.fill_(2)
    assert one.shape == other.shape == shape
    assert bool((one == 1).all())
    assert one.data_ptr() % 64 == other.data_ptr() % 64 == 0
