"""The gradients of a step: those of Equation 1, however rows are packed, padded and split."""

import copy
from pathlib import Path

import pytest
import torch
from distilling import batch_of, dense_gradients, fresh_bank, recipe, text, trainer_of
from fakes import ARCHITECTURES, tiny_config, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from anysize.errors import DivergedError
from anysize_training.distill.batches import Packing, Sequences
from anysize_training.distill.corpus import Corpus
from anysize_training.distill.gates import use_lean_mlps
from anysize_training.distill.optimizer import trained_parameters

LENGTH = 12


def gradients(made, corpus: Corpus, folder: Path, *, tied: bool = True, architecture: str = "llama"):
    """Terms and gradients of the first step, from weights that have moved a little."""
    bank = fresh_bank(made, architecture, tied=tied)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained_parameters(bank, made).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    trainer = trainer_of(made, bank, corpus, folder)
    terms, _ = trainer._step.run(0)
    return terms, {name: p.grad for name, p in trained_parameters(bank, made).items() if p.grad is not None}


def assert_same(ours, theirs) -> None:
    """Terms within 1e-6 and gradients within 1e-4 of each other, relatively."""
    assert ours[0].total == pytest.approx(theirs[0].total, rel=1e-6)
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in ours[1].items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(theirs[1][name], gradient, rtol=1e-4, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("kind", ["full", "delta"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_equal_those_of_the_dense_objective(architecture: str, kind: str, tmp_path: Path) -> None:
    made = recipe(student={"kind": kind}, run={"micro_batch_size": 4}, objective={"kl": 0.7, "cosine": 3.0})
    bank = fresh_bank(made, architecture)
    with torch.no_grad():
        for parameter in trained_parameters(bank, made).values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    trainer = trainer_of(made, bank, text(), tmp_path)
    expected = dense_gradients(bank, made, batch_of(text(), 0, 4))
    trainer._step.run(0)
    for name, parameter in trained_parameters(bank, made).items():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected[name], rtol=2e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["full", "delta"])
@pytest.mark.parametrize("packing", ["documents", "stream", "one_per_row"])
def test_one_micro_batch_of_eight_equals_eight_of_one(packing: Packing, kind: str, tied: bool, tmp_path: Path) -> None:
    results = []
    for micro in (8, 2, 1):
        made = recipe(student={"kind": kind}, run={"batch_size": 8, "micro_batch_size": micro})
        results.append(gradients(made, text(packing=packing), tmp_path, tied=tied))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(2, LENGTH - 1), min_size=4, max_size=4), seed=st.integers(0, 99))
@pytest.mark.parametrize("kind", ["full", "delta"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_documents_equal_documents_one_a_row(
    architecture: str, kind: str, cuts: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two documents fill each packed row; by themselves they are padded."""
    lengths = [part for cut in cuts for part in (cut, LENGTH + 1 - cut)]
    tokens = torch.randint(3, 250, (sum(lengths),), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    results = []
    arrangements: tuple[tuple[Packing, int], ...] = (("documents", 4), ("one_per_row", 8))
    for packing, size in arrangements:
        corpus = Corpus(Sequences(tokens, starts, length=LENGTH, packing=packing), None, "0" * 64)
        made = recipe(student={"kind": kind}, run={"batch_size": size, "micro_batch_size": 2})
        results.append(gradients(made, corpus, tmp_path_factory.getbasetemp(), architecture=architecture))
    assert_same(*results)


@pytest.mark.parametrize("packing", ["documents", "one_per_row"])
def test_activation_checkpointing_changes_nothing(packing: Packing, tmp_path: Path) -> None:
    results = [
        gradients(recipe(run={"activation_checkpointing": chosen}), text(packing=packing), tmp_path)
        for chosen in (False, True)
    ]
    assert results[0][0] == results[1][0]
    for name, gradient in results[0][1].items():
        assert torch.equal(results[1][1][name], gradient), name


def test_bfloat16_runs_near_float32_over_float32_weights(tmp_path: Path) -> None:
    exact = gradients(recipe(), text(), tmp_path)
    rough = gradients(recipe(run={"dtype": "bfloat16"}), text(), tmp_path)
    assert rough[0].total == pytest.approx(exact[0].total, rel=2e-2)
    ours, theirs = (torch.cat([gradient.flatten() for gradient in made[1].values()]) for made in (exact, rough))
    assert theirs.dtype == torch.float32
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.98


def test_each_term_can_be_switched_off(tmp_path: Path) -> None:
    for off in ("cross_entropy", "kl", "cosine"):
        terms, found = gradients(recipe(objective={off: 0}), text(), tmp_path)
        assert getattr(terms, off) is None
        assert all(gradient.isfinite().all() for gradient in found.values())
    only_ce = recipe(objective={"kl": 0, "cosine": 0})
    bank = fresh_bank(only_ce)
    teacher = bank.architecture.backbone_of(bank.teacher)
    teacher.register_forward_pre_hook(lambda *_: pytest.fail("the teacher was run for nothing"))
    trainer_of(only_ce, bank, text(), tmp_path)._step.run(0)


def test_a_term_that_is_no_number_is_named_with_its_rows(tmp_path: Path) -> None:
    made = recipe(run={"batch_size": 4, "micro_batch_size": 2})
    bank = fresh_bank(made, tied=False)
    corpus = text()
    batch = batch_of(corpus, 0, 4)
    # A token that the first two rows do not hold.
    poison = next(t for t in batch.inputs_BL[2:].flatten().tolist() if t not in batch.inputs_BL[:2].flatten().tolist())
    embedding = bank.architecture.embeddings_of(bank.student)["embed_tokens"].weight
    assert isinstance(embedding, torch.Tensor)
    with torch.no_grad():
        embedding[poison] = torch.nan
    with pytest.raises(DivergedError, match=r"step 0: the cross entropy of rows \[2, 3\] is nan"):
        trainer_of(made, bank, corpus, tmp_path)._step.run(0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_lean_mlps_are_the_mlps_that_they_stand_for(architecture: str, dtype: torch.dtype):
    model = tiny_model(tiny_config(architecture, 2), seed=0)
    model.to(dtype)  # pyright: ignore[reportArgumentType]
    lean = copy.deepcopy(model)
    use_lean_mlps(lean)
    assert [*lean.state_dict()] == [*model.state_dict()]
    ids_BL = torch.arange(24).view(2, 12)

    outputs = [one(ids_BL, labels=ids_BL) for one in (model, lean)]
    for output in outputs:
        output.loss.backward()

    rtol, atol = (1e-10, 1e-12) if dtype is torch.float64 else (0.1, 2e-2)
    torch.testing.assert_close(outputs[1].logits, outputs[0].logits, rtol=rtol, atol=atol)
    for (name, one), other in zip(model.named_parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=rtol, atol=atol, msg=name)
    assert not [
        module for module in lean.modules() if type(module).__name__.endswith("MLP") and "Lean" not in repr(module)
    ]


def test_other_mlps_stay_as_they_are():
    model = tiny_model(tiny_config("gpt_neox", 2), seed=0)
    before = repr(model)

    use_lean_mlps(model)

    assert repr(model) == before
