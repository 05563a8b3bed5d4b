"""A teacher from scratch: made, trained by the pipeline that distils, and exported."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from anysize.cli import app as anysize
from anysize_training.cli import app
from anysize_training.distill.data import shuffled

SMALL = ("--layers", "3", "--width", "32", "--heads", "2", "--feed-forward", "64", "--vocabulary", "270")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    words = ["sea", "shore", "moon", "tide", "wind", "sail"]
    rows = [" ".join(shuffled(iter(words), seed)) + "." for seed in range(200)]
    path.write_text("\n\n".join(rows))
    return path


def made(out: Path, text: Path, *more: str) -> int:
    return CliRunner().invoke(app, ["untrained", str(out), "--text", str(text), *SMALL, *more]).exit_code


def test_an_untrained_model_learns_and_becomes_a_checkpoint(tmp_path: Path, text: Path):
    assert made(tmp_path / "untrained", text) == 0
    settings = [f"teacher={tmp_path / 'untrained'}", f"data.source={text}", f"data.cache={tmp_path / 'tokens'}"]
    settings += ["data.sequence_length=16", "data.held_out=4", "run.steps=30", "run.evaluate_every=0"]
    overrides = [word for value in settings for word in ("--set", value)]
    done = CliRunner().invoke(app, ["distill", "--recipe", "scratch", "--out", str(tmp_path / "run"), *overrides])
    assert done.exit_code == 0, done.output
    family, teacher = str(tmp_path / "run" / "family"), tmp_path / "teacher"
    done = CliRunner().invoke(anysize, ["export", "--family", family, "--size", "student", "--out", str(teacher)])
    assert done.exit_code == 0, done.output
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    ids = tokenizer("sea shore moon tide wind sail.", return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == "sea shore moon tide wind sail."
    losses = []
    for folder in (tmp_path / "untrained", teacher):
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            losses.append(model(ids, labels=ids).loss.item())
    assert losses[1] < losses[0] - 1


def test_seeds_make_other_weights_and_the_same_seed_the_same(tmp_path: Path, text: Path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert made(tmp_path / name, text, "--seed", seed) == 0
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_what_cannot_be_made_is_refused(tmp_path: Path, text: Path):
    assert made(tmp_path / "new", text, "--vocabulary", "100000") == 2
    assert made(tmp_path / "new", text, "--heads", "3") == 2
    assert not (tmp_path / "new").exists()
    assert made(tmp_path / "new", text) == 0
    kept = json.loads((tmp_path / "new" / "config.json").read_text())
    assert made(tmp_path / "new", text) == 2
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == kept
