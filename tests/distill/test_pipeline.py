"""From a recipe to a family that serves, through the command line."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from fakes import save_checkpoint_folder, tiny_config, tiny_model
from typer.testing import CliRunner

from anysize.family.family import Family
from anysize.family.files import sha256_of
from anysize.family.manifest import Provenance, read_manifest
from anysize.family.pretrained import checkpoint_fingerprint
from anysize_training.cli import app
from anysize_training.distill.provenance import code_sha256

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path):
    """A recipe on a tiny teacher, and a function that runs `anysize-train`."""
    save_checkpoint_folder(tiny_model(tiny_config("llama", 6), 0), tmp_path / "teacher")
    (tmp_path / "text.txt").write_text(
        "".join(f"cat {n} sat on the mat and the dog sat on the log\n\n" for n in range(60))
    )
    recipe = {
        "name": "tiny",
        "teacher": str(tmp_path / "teacher"),
        "student": {"kind": "delta", "rank": 4, "initialise": {"method": "layers", "layers": [0, 2, 4]}},
        "data": {"source": str(tmp_path / "text.txt"), "sequence_length": 32, "cache": str(tmp_path / "cache")},
        "optimizer": {"learning_rate": 1e-2},
        "run": {"steps": 6, "batch_size": 2, "micro_batch_size": 2, "checkpoint_every": 2, "device": "cpu"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def invoke(*words: str):
        return CliRunner().invoke(app, list(words))

    return tmp_path, invoke


@pytest.mark.parametrize("kind", ["delta", "full"])
def test_distil_then_measure_then_search_a_ladder_then_load(run, kind: str) -> None:
    folder, invoke = run
    common = ["--recipe", str(folder / "recipe.yaml"), "--out", str(folder / "out")]
    done = invoke("distill", *common, "--set", f"student.kind={kind}")
    assert done.exit_code == 0, done.output
    family_folder = folder / "out" / "family"
    text = str(folder / "text.txt")

    small = ["--text", text, "--max-tokens", "128", "--window", "32"]
    measured = invoke("evaluate", str(family_folder), *small, "--untrained", "--write", "--json")
    assert measured.exit_code == 0, measured.output
    report = json.loads(measured.stdout)
    assert [row["layers"] for row in report["sizes"]] == sorted(row["layers"] for row in report["sizes"])
    assert report["sizes"][-1]["kl"] == pytest.approx(0, abs=1e-5)
    assert report["untrained_student_perplexity"] > 0

    searched = invoke("ladder", str(family_folder), *small, "--write", "--json")
    assert searched.exit_code == 0, searched.output
    family = Family.load(family_folder, dtype=torch.float32, device=CPU)
    assert [size.id for size in family.ladder] == [row["variant"] for row in json.loads(searched.stdout)["ladder"]]

    assert invoke("evaluate", str(family_folder), *small, "--write").exit_code == 0
    manifest = read_manifest(family_folder)
    assert {measurement.variant for measurement in manifest.measurements} == {size.id for size in family.ladder}
    assert str(folder) not in (family_folder / "family.json").read_text()
    card = (family_folder / "README.md").read_text()
    assert "anysize-train distill" in card
    assert f"`{family.ladder[0].id}`" in card


def test_a_finished_or_interrupted_run_is_not_overwritten_by_accident(run) -> None:
    folder, invoke = run
    common = ["--recipe", str(folder / "recipe.yaml"), "--out", str(folder / "out")]
    assert invoke("distill", *common).exit_code == 0
    again = invoke("distill", *common)
    assert again.exit_code == 2
    assert "--resume" in again.output
    assert invoke("distill", *common, "--resume").exit_code == 0


def test_mistakes_end_with_code_two_and_one_line(run) -> None:
    folder, invoke = run
    for words in (
        ("distill", "--recipe", "nothing", "--out", str(folder / "x")),
        ("distill", "--recipe", str(folder / "recipe.yaml"), "--out", str(folder / "y"), "--set", "run.steps=-1"),
        ("evaluate", str(folder), "--text", str(folder / "text.txt")),
    ):
        done = invoke(*words)
        assert done.exit_code == 2
        assert "error:" in done.output
        assert "Traceback" not in done.output


def test_a_refused_resume_leaves_the_recipe_of_the_run_alone(run) -> None:
    folder, invoke = run
    common = ["--recipe", str(folder / "recipe.yaml"), "--out", str(folder / "out")]
    assert invoke("distill", *common).exit_code == 0
    before = (folder / "out" / "recipe.json").read_text()
    refused = invoke("distill", *common, "--resume", "--set", "optimizer.learning_rate=0.5")
    assert refused.exit_code == 2
    assert (folder / "out" / "recipe.json").read_text() == before
    resumed = ["--recipe", str(folder / "out" / "recipe.json"), "--out", str(folder / "out"), "--resume"]
    assert invoke("distill", *resumed).exit_code == 0


def test_a_finished_run_keeps_the_ladder_that_was_found_since(run) -> None:
    folder, invoke = run
    common = ["--recipe", str(folder / "recipe.yaml"), "--out", str(folder / "out")]
    assert invoke("distill", *common).exit_code == 0
    small = ["--text", str(folder / "text.txt"), "--max-tokens", "128", "--window", "32"]
    assert invoke("ladder", str(folder / "out" / "family"), *small, "--write").exit_code == 0
    before = (folder / "out" / "family" / "family.json").read_text()
    assert invoke("distill", *common, "--resume").exit_code == 0
    assert (folder / "out" / "family" / "family.json").read_text() == before


@pytest.mark.parametrize("override", ["patch_order=[1, 1, 2]", "teacher=builtin:nothing"])
def test_what_could_not_be_served_is_refused_before_training(run, override: str) -> None:
    folder, invoke = run
    words = ["--recipe", str(folder / "recipe.yaml"), "--out", str(folder / "out"), "--set", override]
    done = invoke("distill", *words)
    assert done.exit_code == 2
    assert not (folder / "out" / "checkpoints").exists()


def test_a_family_says_what_it_was_made_of(run) -> None:
    folder, invoke = run
    common = ["distill", "--recipe", str(folder / "recipe.yaml")]
    for name, changes in (("a", []), ("b", []), ("c", ["--set", "run.seed=3"])):
        assert invoke(*common, "--out", str(folder / name), *changes).exit_code == 0
    first, same, other = (provenance_of(folder / name) for name in "abc")
    assert first.data_sha256 == sha256_of(folder / "text.txt")
    assert first.recipe_sha256 == same.recipe_sha256 != other.recipe_sha256
    assert first.tokens_sha256 == same.tokens_sha256 != other.tokens_sha256
    assert first.code_sha256 == code_sha256()
    family = read_manifest(folder / "a" / "family")
    assert family.teacher.fingerprint == checkpoint_fingerprint(folder / "teacher")
    assert "curves.png" in family.files
    assert "curves.png" in (folder / "a" / "family" / "README.md").read_text()


def provenance_of(out: Path) -> Provenance:
    provenance = read_manifest(out / "family").provenance
    assert provenance is not None
    return provenance


def test_measured_layers_are_measured_once(run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, invoke = run
    words = ["distill", "--recipe", str(folder / "recipe.yaml"), "--out", str(folder / "out")]
    words += ["--set", "student.initialise={method: kl, layers: 3, longest_block: 3, calibration_tokens: 64}"]
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    kept = json.loads((folder / "out" / "kept_layers.json").read_text())["kept_layers"]
    assert read_manifest(folder / "out" / "family").kept_layers == tuple(kept)
    monkeypatch.setattr(
        "anysize_training.distill.initialise.choose", lambda *_, **__: pytest.fail("measured a second time")
    )
    for checkpoint in (folder / "out" / "checkpoints").glob("step-*6"):
        checkpoint.rename(folder / "gone")
    assert invoke(*words, "--resume").exit_code == 0


def test_a_student_is_trained_further_beside_its_own_teacher_only(run) -> None:
    folder, invoke = run
    words = ["distill", "--recipe", str(folder / "recipe.yaml"), "--out"]
    assert invoke(*words, str(folder / "first")).exit_code == 0
    further = ["--set", f"student.initialise={{method: family, path: {folder / 'first' / 'family'}}}"]
    done = invoke(*words, str(folder / "second"), *further, "--set", "student.rank=6")
    assert done.exit_code == 0, done.output
    losses = [
        json.loads((folder / name / "log.jsonl").read_text().splitlines()[0])["total"] for name in ("first", "second")
    ]
    assert losses[1] < losses[0]
    save_checkpoint_folder(tiny_model(tiny_config("llama", 6), 1), folder / "other")
    refused = invoke(*words, str(folder / "third"), *further, "--set", f"teacher={folder / 'other'}")
    assert refused.exit_code == 2
    assert "was made for a teacher with weights" in refused.output
    assert not (folder / "third" / "recipe.json").exists()
