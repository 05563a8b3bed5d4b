"""Weights rounded to int8: how far off they may be, and what they are shared by."""

import copy
from typing import get_args

import pytest
import torch
from fakes import ARCHITECTURES, Kind, tiny_bank
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from anysize.family.architectures import architecture_of
from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.footprint import footprint_of
from anysize.family.int8 import Int8Linear, quantize
from anysize.family.variant import Owner, Variant

KINDS: tuple[Kind, ...] = get_args(Kind)


@given(st.integers(1, 9), st.integers(1, 30), st.floats(1e-6, 1e6), st.integers(0, 99))
def test_each_weight_is_off_by_half_a_step_of_its_row_at_most(out: int, width: int, size: float, seed: int):
    weight_OI = size * torch.randn(out, width, generator=torch.Generator().manual_seed(seed))
    bias_O = nn.Parameter(torch.ones(out))

    rounded = Int8Linear(weight_OI, bias_O)

    held_OI = rounded(torch.eye(width)).T - 1
    step_O1 = weight_OI.abs().amax(dim=1, keepdim=True) / 127
    assert ((held_OI - weight_OI).abs() <= 0.5001 * step_O1 + 2e-6).all()


def test_a_row_of_zeros_stays_zero():
    assert not Int8Linear(torch.zeros(2, 3), None)(torch.ones(1, 3)).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_of_a_rounded_bank_are_close_and_share_what_they_shared(architecture: str, kind: Kind):
    exact = tiny_bank(architecture, kind=kind, seed=4)
    rounded = copy.deepcopy(exact)
    quantize(rounded)
    ids_BL = torch.arange(40).view(2, 20)

    for choice in ((False,) * 3, (True, False, True), (True,) * 3):
        variant = Variant(choice)
        with torch.inference_mode():
            wanted_BLV, got_BLV = (assemble(bank, variant)(ids_BL).logits for bank in (exact, rounded))
        assert (got_BLV - wanted_BLV).norm() < 0.05 * wanted_BLV.norm(), variant.id
        assert footprint_of(rounded, variant).parameters == footprint_of(exact, variant).parameters
    linear = {id(module.weight) for module in rounded.teacher.modules() if isinstance(module, Int8Linear)}
    of_student = {id(module.weight) for module in rounded.student.modules() if isinstance(module, Int8Linear)}
    assert bool(linear & of_student) == (kind == "delta")


def test_the_bank_takes_a_quarter_of_the_bytes_but_for_embeddings_and_norms():
    exact, rounded = (tiny_bank("llama", kind="full", tied=False) for _ in range(2))
    quantize(rounded)

    def held(bank: Bank) -> int:
        architecture = architecture_of(bank.teacher.config, "tiny")
        kept = {
            id(p)
            for owner in Owner
            for e in architecture.embeddings_of(bank.model(owner)).values()
            for p in e.parameters()
        }
        return sum(t.numel() * t.element_size() for t in bank.tensors() if id(t) not in kept)

    assert 0.25 < held(rounded) / held(exact) < 0.32
