"""`anysize-train init` through the command line, on a tiny teacher."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from fakes import byte_tokenizer, save_checkpoint_folder, tiny_config, tiny_model
from layer_measures import kl_of, pruned_kl
from stacked import layer_tensors, merged, stacked
from typer.testing import CliRunner

from anysize_training.cli import app
from anysize_training.distill.recipe import Student

TEXT = "the cat sat on the mat and the dog sat on the log\n\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny teacher of eight layers, and a text; nobody changes them."""
    folder = tmp_path_factory.mktemp("init")
    save_checkpoint_folder(tiny_model(tiny_config("llama", 8), 0), folder / "teacher")
    (folder / "text.txt").write_text("".join(f"{number} {TEXT}" for number in range(40)))
    return folder


def init(folder: Path, *words: str):
    common = ["init", str(folder / "teacher"), "--text", str(folder / "text.txt")]
    return CliRunner().invoke(app, [*common, "--max-tokens", "64", "--window", "32", *words])


def test_the_line_that_is_printed_is_part_of_a_recipe(folder: Path) -> None:
    done = init(folder, "--layers", "4", "--longest-block", "3")
    assert done.exit_code == 0, done.output
    line = next(line for line in done.stdout.splitlines() if line.startswith("initialise:"))
    chosen = Student.model_validate(yaml.safe_load(line)).initialise
    assert chosen.method == "layers"
    assert len(chosen.layers) == 4
    assert "kl, KL" in line
    strip = "".join("■" if layer in chosen.layers else "·" for layer in range(8))
    assert f"{strip}  kl" in done.stdout.splitlines()


@pytest.mark.parametrize("method", ["similarity", "block_influence", "every_nth"])
def test_one_method_can_be_asked_for(folder: Path, method: str) -> None:
    done = init(folder, "--layers", "5", "--method", method, "--json")
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["methods"]
    assert row["method"] == method
    assert len(row["kept_layers"]) == 5


def test_compare_scores_every_method_on_the_text_behind_the_calibration(folder: Path) -> None:
    done = init(folder, "--layers", "4", "--compare", "--longest-block", "4", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["teacher"] == "teacher"
    assert (report["calibration_tokens"], report["held_out_tokens"]) == (64, 64)
    ids = torch.tensor(byte_tokenizer()((folder / "text.txt").read_text()).input_ids)
    held_out = ids[64:128].view(2, 32)
    teacher = tiny_model(tiny_config("llama", 8), 0)
    assert {row["method"] for row in report["methods"]} == {"kl", "similarity", "block_influence", "every_nth"}
    for row in report["methods"]:
        kept = row["kept_layers"]
        ends = [*kept[1:], 8]
        assert row["longest_block"] == max(end - start for start, end in zip(kept, ends, strict=True))
        assert row["kl"] == pytest.approx(pruned_kl(teacher, tuple(kept), held_out), rel=1e-3, abs=1e-5)
        layers = [layer_tensors(teacher, layer) for layer in range(8)]
        folded = [merged(layers[start:end]) for start, end in zip(kept, ends, strict=True)]
        expected = kl_of(teacher, stacked(teacher, folded, kept), held_out)
        assert row["merged_kl"] == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert row["sizes"] >= 2
        assert row["seconds"] >= 0


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_picture_is_written(folder: Path, tmp_path: Path, suffix: str, start: bytes) -> None:
    picture = tmp_path / f"kept{suffix}"
    done = init(folder, "--layers", "4", "--compare", "--plot", str(picture))
    assert done.exit_code == 0, done.output
    assert picture.read_bytes().startswith(start)
    if suffix == ".svg":
        for method in ("kl", "similarity", "block_influence", "every_nth"):
            assert f"<!-- {method}" in picture.read_text()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--layers", "4", "--plot", "kept.gif"], ".png or .svg"),
        (["--layers", "4", "--plot", "nowhere/kept.png"], "folder does not exist"),
        (["--layers", "2", "--longest-block", "3"], "allow blocks of 4"),
        (["--layers", "8", "--method", "every_nth"], "keeps 1 to 7"),
        (["--layers", "4", "--window", "96"], "more --max-tokens"),
    ],
)
def test_mistakes_end_with_code_two_and_one_line(folder: Path, words: list[str], reason: str) -> None:
    done = init(folder, *words)
    assert done.exit_code == 2
    assert "error:" in done.output
    assert reason in done.output
    assert "Traceback" not in done.output


def test_a_plan_asks_for_layers_that_were_measured(folder: Path) -> None:
    recipe = {
        "name": "tiny",
        "teacher": str(folder / "teacher"),
        "student": {"initialise": {"method": "kl", "layers": 4, "longest_block": 3}},
        "data": {"source": "text.txt"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = CliRunner().invoke(app, ["plan", str(path)])
    assert done.exit_code == 2
    assert "anysize-train init TEACHER --method kl --layers 4 --longest-block 3" in done.output
    assert "Traceback" not in done.output


def test_help_has_examples_of_every_method_and_a_comparison() -> None:
    done = CliRunner().invoke(app, ["init", "--help"])
    assert done.exit_code == 0
    for word in ("--compare", "--plot", "similarity", "block_influence", "every_nth", "Examples"):
        assert word in done.output
