"""`anysize-train baseline` on tiny teachers: what it writes is what transformers loads and scores."""

import json
import math
from itertools import cycle
from pathlib import Path

import pytest
import torch
from fakes import ARCHITECTURES, byte_tokenizer, save_checkpoint_folder, tiny_config, tiny_model, write_tiny_family
from stacked import layer_tensors, logits_of, pruned_by_hand, some_tokens, stacked
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from anysize.family.assembly import assemble
from anysize.family.variant import Variant
from anysize_training.cli import app
from anysize_training.study.texts import read_windows

WORDS = "the sea is wide and the sky is high; " * 9
METHODS = ("naive", "shortgpt_once", "shortgpt_rescored", "laco_equation", "laco_official", "untrained")


def baseline(teacher: Path, *arguments: str) -> Result:
    command = ["baseline", str(teacher), "--window", "16", "--evaluate-window", "32", "--evaluate-tokens", "96"]
    return CliRunner().invoke(app, [*command, *arguments], env={"COLUMNS": "120", "NO_COLOR": "1"})


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(WORDS)
    return path


def test_all_methods_stand_beside_the_family(tmp_path: Path, text: Path) -> None:
    bank = write_tiny_family(tmp_path / "family", teacher_layers=7, kept=(0, 2, 4))
    family, out, plot = tmp_path / "family", tmp_path / "report.json", tmp_path / "picture.svg"
    options = ("--compare", "--merged", "3", "--threshold", "-1", "--against", str(family), "--tokens", "64")
    files = ("--text", str(text), "--evaluate-text", str(text), "--out", str(out), "--plot", str(plot))
    done = baseline(tmp_path / "family-teacher", *options, *files)
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert (report["study"], report["family"], report["tokens"]) == ("baseline", "tiny", 96)
    assert report["laco_runs"] == [[3, -1.0]]
    assert "<svg" in plot.read_text()[:2000]
    rows = {method: [row for row in report["rows"] if row["method"] == method] for method in ("family", *METHODS)}
    depths = [row["layers"] for row in rows["family"]]
    assert depths[-1] == 7
    for method in METHODS:
        assert [row["asked_layers"] for row in rows[method]] == depths[:-1]
    kept = {row["layers"]: row["kept"] for row in rows["untrained"]}
    assert kept[3] == [0, 2, 4]

    # Perplexity as transformers' own loss has it.
    windows = read_windows(text, byte_tokenizer(), length=32, max_tokens=96)
    models = [(row, pruned_by_hand(bank.teacher, row["kept"])) for row in (rows["naive"][0], rows["shortgpt_once"][1])]
    student = next(row for row in rows["family"] if row["variant"] == "student")
    for row, model in (*models, (student, assemble(bank, Variant.student(3)))):
        with torch.no_grad():
            losses = [model(window[None], labels=window[None]).loss.item() for window in windows.tokens_NL]
        assert row["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-3)
    # Every merge is kept: 7 layers become 5, then 3, and two of the asked depths are answered by smaller models.
    merges = {row["asked_layers"]: row for row in rows["laco_official"]}
    assert merges[3]["laco"]["run_ended"]
    assert merges[3]["laco"]["merges"] == [[4, 2], [2, 2]]
    assert all(row["layers"] <= row["asked_layers"] for row in rows["laco_official"])


@pytest.mark.parametrize(("architecture", "tied"), [*zip(ARCHITECTURES, cycle((True, False)), strict=False)])
def test_saved_models_are_loaded_by_transformers(tmp_path: Path, architecture: str, tied: bool, text: Path) -> None:
    teacher = tiny_model(tiny_config(architecture, 5, tied=tied), 0)
    save_checkpoint_folder(teacher, tmp_path / "teacher")
    options = ("--method", "laco", "--merged", "2", "--threshold", "-1", "--tokens", "32", "--layers", "3,4")
    done = baseline(tmp_path / "teacher", *options, "--text", str(text), "--save", str(tmp_path / "models"), "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert [row["layers"] for row in report["rows"]] == [3, 3]
    assert all(row["perplexity"] is None for row in report["rows"])
    # Only what has the asked depth is written.
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["laco_equation-3"]
    first, *_, last = (layer_tensors(teacher, layer) for layer in range(5))
    two, three = (layer_tensors(teacher, layer) for layer in (2, 3))
    merged = {name: two[name] + (three[name] - two[name]) + (last[name] - two[name]) for name in two}
    by_hand = stacked(teacher, [first, layer_tensors(teacher, 1), merged], (0, 1, 2))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "models" / "laco_equation-3").eval()
    ids = some_tokens(2, 20)
    torch.testing.assert_close(logits_of(loaded, ids), logits_of(by_hand, ids), rtol=1e-4, atol=1e-4)
    again = baseline(tmp_path / "teacher", *options, "--text", str(text), "--save", str(tmp_path / "models"))
    assert again.exit_code == 2
    assert "exists" in again.output


@pytest.mark.parametrize("method", ["naive", "shortgpt"])
def test_a_saved_model_is_scored_by_evaluate_as_it_was_here(tmp_path: Path, method: str, text: Path) -> None:
    save_checkpoint_folder(tiny_model(tiny_config("llama", 6), 0), tmp_path / "teacher")
    options = ("--method", method, "--layers", "4", "--text", str(text), "--tokens", "32", "--evaluate-text", str(text))
    done = baseline(tmp_path / "teacher", *options, "--save", str(tmp_path / "models"), "--json")
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["rows"]
    (saved,) = (tmp_path / "models").iterdir()
    command = ["evaluate", str(saved), "--text", str(text), "--window", "32", "--max-tokens", "96"]
    alone = CliRunner().invoke(app, [*command, "--words", "--json"])
    assert alone.exit_code == 0, alone.output
    (size,) = json.loads(alone.stdout)["sizes"]
    assert (size["variant"], size["layers"]) == ("teacher", 4)
    assert size["perplexity"] == pytest.approx(row["perplexity"], rel=1e-6)
    assert size["word_perplexity"] > size["perplexity"]
    refused = CliRunner().invoke(app, [*command, "--write"])
    assert refused.exit_code == 2
    assert "is a checkpoint" in " ".join(refused.output.split())


def test_depths_are_those_of_a_family(tmp_path: Path) -> None:
    write_tiny_family(tmp_path / "family", teacher_layers=7, kept=(0, 2, 4))
    done = baseline(tmp_path / "family-teacher", "--depths-of", str(tmp_path / "family"), "--json")
    assert done.exit_code == 0, done.output
    # Last to first: blocks of 3, 2 and 2 layers.
    assert [row["layers"] for row in json.loads(done.stdout)["rows"]] == [3, 5, 6]


def test_what_cannot_be_done_is_refused(tmp_path: Path, text: Path) -> None:
    write_tiny_family(tmp_path / "family", teacher_layers=7)
    save_checkpoint_folder(tiny_model(tiny_config("llama", 7), 5), tmp_path / "other")
    teacher, layers = tmp_path / "family-teacher", ("--layers", "4")
    for arguments, words in (
        ((), "--layers 11,14"),
        (("--layers", "8"), "1 to 6"),
        (("--layers", "two"), "no list of depths"),
        ((*layers, "--method", "shortgpt"), "--text"),
        ((*layers, "--method", "untrained"), "--against"),
        ((*layers, "--plot", "picture.png"), "--evaluate-text"),
        ((*layers, "--out", str(tmp_path)), "is a folder"),
    ):
        refused = baseline(teacher, *arguments)
        assert refused.exit_code == 2, arguments
        assert words in " ".join(refused.output.split()), (arguments, refused.output)
    refused = baseline(tmp_path / "other", "--against", str(tmp_path / "family"))
    assert refused.exit_code == 2
    assert "another teacher" in refused.output
