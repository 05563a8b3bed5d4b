"""Cosines and FLOPs, against transformers' hidden states and against counting by hand."""

import json
from pathlib import Path

import pytest
import torch
from fakes import ARCHITECTURES, Kind, byte_tokenizer, tiny_bank, write_tiny_family
from layer_measures import states
from stacked import some_tokens
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner, Result

from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.variant import Variant
from anysize_training.cli import app
from anysize_training.study.analyse.flops import counted_flops, forward_flops
from anysize_training.study.analyse.last_layer import last_layers
from anysize_training.study.analyse.similarity import student_similarity
from anysize_training.study.plan import flops_of_token

VARIANTS = (Variant.student(3), Variant((False, True, False)), Variant((False, True, True)), Variant.teacher(3))


def mean_cosine(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return F.cosine_similarity(ours.double(), theirs.double(), dim=-1).mean().item()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_student_layer_is_compared_with_every_teacher_layer(architecture: str) -> None:
    bank, ids = tiny_bank(architecture, kind="delta"), some_tokens(5, 14)
    found = student_similarity(bank, ids)
    ours, theirs = (states(assemble(bank, one), ids)[1:] for one in (Variant.student(3), Variant.teacher(3)))
    assert found.shape == (3, 6)
    for row, student_state in enumerate(ours):
        for column, teacher_state in enumerate(theirs):
            assert found[row, column].item() == pytest.approx(mean_cosine(student_state, teacher_state), abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_last_layers_are_those_of_transformers(architecture: str) -> None:
    bank, ids = tiny_bank(architecture), some_tokens(5, 14)
    found = last_layers(bank, VARIANTS, ids)
    teacher = assemble(bank, Variant.teacher(3))
    with torch.no_grad():
        normed = teacher(ids, output_hidden_states=True).hidden_states[-1]
    for one, variant in zip(found, VARIANTS, strict=True):
        model = assemble(bank, variant)
        assert one.cosine == pytest.approx(mean_cosine(states(model, ids)[-1], states(teacher, ids)[-1]), abs=1e-5)
        with torch.no_grad():
            ours = model(ids, output_hidden_states=True).hidden_states[-1]
        assert one.cosine_after_norm == pytest.approx(mean_cosine(ours, normed), abs=1e-5)
    assert (found[-1].cosine, found[-1].cosine_after_norm) == (pytest.approx(1), pytest.approx(1))


def used(bank: Bank, variant: Variant) -> list[nn.Parameter]:
    """The parameters of layers, final norm and LM head of a variant."""
    model = assemble(bank, variant)
    parts = [*bank.architecture.layers_of(model), bank.architecture.norm_of(model), bank.architecture.head_of(model)]
    return [parameter for part in parts for parameter in part.parameters()]


@pytest.mark.parametrize("kind", ["full", "delta"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_torch_counts_the_closed_form_without_vectors_and_with_attention_scores(architecture: str, kind: Kind) -> None:
    bank, tokens = tiny_bank(architecture, kind=kind), 24
    for variant in VARIANTS:
        # What norms and biases do is no matrix product.
        vectors = 2 * sum(parameter.numel() for parameter in used(bank, variant) if parameter.dim() == 1)
        scores = 4 * tokens * bank.teacher.config.hidden_size * variant.depth(bank.blocks)
        counted = counted_flops(bank, variant, tokens) / tokens
        assert counted == forward_flops(bank, variant) - vectors + scores
        assert vectors < 0.04 * counted


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_flops_are_three_forward_passes_of_the_student_and_one_of_the_teacher(architecture: str) -> None:
    bank = tiny_bank(architecture)
    student, teacher = (sum(2 * one.numel() for one in used(bank, variant)) for variant in (VARIANTS[0], VARIANTS[-1]))
    assert flops_of_token(bank, full=True)(3) == 3 * student + teacher


def analyse(family: Path, *arguments: str) -> Result:
    command = ["analyse", str(family), "--tokens", "96", "--window", "32", *arguments]
    return CliRunner().invoke(app, command, env={"COLUMNS": "120", "NO_COLOR": "1"})


@pytest.mark.parametrize("what", ["teacher_layers", "student_layers", "last_layer", "flops"])
def test_the_command_prints_keeps_and_draws(tmp_path: Path, what: str) -> None:
    bank = write_tiny_family(tmp_path / "family")
    text, out, plot = tmp_path / "text.txt", tmp_path / "report.json", tmp_path / "picture.png"
    text.write_text("the sea is wide and the sky is high; " * 9)
    options = ("--what", what, *(() if what == "flops" else ("--text", str(text))))
    done = analyse(tmp_path / "family", *options, "--out", str(out), "--plot", str(plot))
    assert done.exit_code == 0, done.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    report = json.loads(out.read_text())
    assert (report["study"], report["what"], report["family"]) == ("analyse", what, "tiny")
    assert report["blocks"] == [[0, 1], [2, 4], [5, 5]]
    rows = report["rows"]
    if what == "flops":
        assert report["dataset"] is None
        assert [row["variant"] for row in rows] == ["student", "p2-3", "teacher"]
        interior = rows[1]["distillation"]
        assert report["training"]["ratio"] == pytest.approx(interior / rows[0]["distillation"])
        assert [one["paper"]["ratio"] for one in report["paper"]] == [19.17, 17.01, 14.53]
        assert all(one["ratio"] == pytest.approx(one["paper"]["ratio"], rel=0.05) for one in report["paper"])
        return
    assert report["tokens"] == 96
    ids = byte_tokenizer()(text.read_text(), return_tensors="pt").input_ids[:, :96].reshape(3, 32)
    theirs = states(assemble(bank, Variant.teacher(3)), ids)[1:]
    if what == "teacher_layers":
        assert [row["layer"] for row in rows] == list(range(6))
        assert rows[1]["cosines"][4] == pytest.approx(mean_cosine(theirs[1], theirs[4]), abs=1e-5)
    elif what == "student_layers":
        assert [row["block"] for row in rows] == report["blocks"]
    else:
        nested = {row["patched"]: row["variant"] for row in rows if row["nested"]}
        assert nested == {0: "student", 1: "p3", 2: "p2-3", 3: "teacher"}
        assert [row["variant"] for row in rows if row["on_ladder"]] == ["student", "p2-3", "teacher"]


def test_what_is_measured_on_text_wants_one(family_folder: Path) -> None:
    refused = analyse(family_folder, "--what", "last_layer")
    assert refused.exit_code == 2
    assert "--text FILE" in refused.output
