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
    assert first.started_from_sha256 is None
    lines = [json.loads(line) for line in (folder / "a" / "log.jsonl").read_text().splitlines()]
    # 6 steps of 2 rows of 32, without the places where a document ends.
    assert 300 < first.tokens < 6 * 2 * 32
    assert first.seconds >= sum(first.tokens / 6 / line["tokens_per_s"] for line in lines) * 0.5
    assert str(folder) not in (folder / "a" / "family" / "family.json").read_text()
    family = read_manifest(folder / "a" / "family")
    assert family.teacher.fingerprint == checkpoint_fingerprint(folder / "teacher")
    assert "curves.png" in family.files
    assert "curves.png" in (folder / "a" / "family" / "README.md").read_text()


def first_loss(out: Path) -> float:
    return json.loads((out / "log.jsonl").read_text().splitlines()[0])["total"]


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
    losses = [first_loss(folder / name) for name in ("first", "second")]
    assert losses[1] < losses[0]
    parent = sha256_of(folder / "first" / "family" / "student.safetensors")
    assert provenance_of(folder / "second").started_from_sha256 == parent
    assert parent[:12] in (folder / "second" / "family" / "README.md").read_text()
    assert str(folder) not in (folder / "second" / "family" / "family.json").read_text()
    assert str(folder) not in (folder / "second" / "family" / "README.md").read_text()

    # Killed before its first checkpoint: what begins again is the family's student all the same.
    for leftover in ("checkpoints", "family"):
        (folder / "second" / leftover).rename(folder / f"second-{leftover}")
    words_again = [*words, str(folder / "second"), *further, "--set", "student.rank=6", "--resume"]
    assert invoke(*words_again).exit_code == 0
    assert first_loss(folder / "second") == losses[1]

    # Made anew in between, it is another student.
    assert invoke(*words, str(folder / "anew"), "--set", "run.seed=5").exit_code == 0
    (folder / "first").rename(folder / "gone")
    (folder / "anew").rename(folder / "first")
    changed = invoke(*words_again)
    assert changed.exit_code == 2
    assert "another start" in changed.output
    (folder / "first").rename(folder / "anew")
    (folder / "gone").rename(folder / "first")
    save_checkpoint_folder(tiny_model(tiny_config("llama", 6), 1), folder / "other")
    refused = invoke(*words, str(folder / "third"), *further, "--set", f"teacher={folder / 'other'}")
    assert refused.exit_code == 2
    assert "was made for a teacher with weights" in refused.output
    assert not (folder / "third" / "recipe.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.sequence_length=1000"], "is more than the 256 tokens of the teacher's context"),
        (["optimizer.betas=[0.9, 1.0]"], "optimizer.betas.1: Input should be less than 1"),
        (["run.device=tpu"], "run.device: String should match"),
        (["run.steps=[1"], "--set 'run.steps=[1': the value is no YAML"),
        (["student.initialise={method: family, path: nowhere}"], "distil that family first"),
    ],
)
def test_a_value_that_cannot_be_is_one_clear_error(run, changes: list[str], message: str) -> None:
    folder, invoke = run
    words = ["distill", "--recipe", str(folder / "recipe.yaml"), "--out", str(folder / "out")]
    done = invoke(*words, *(word for change in changes for word in ("--set", change)))
    assert done.exit_code == 2
    assert message in done.output.replace("\n", " ")
    assert "Traceback" not in done.output
    assert not (folder / "cache").exists()


def test_folders_and_files_that_cannot_be_used_are_named(run) -> None:
    folder, invoke = run
    recipe = ["distill", "--recipe", str(folder / "recipe.yaml"), "--out"]
    for out in (folder / "text.txt", folder / "text.txt" / "below"):
        assert "cannot make the folder" in invoke(*recipe, str(out)).output
    (folder / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    done = invoke("distill", "--recipe", str(folder / "latin.yaml"), "--out", str(folder / "x"))
    assert "cannot read recipe" in done.output
    assert invoke(*recipe, str(folder / "out")).exit_code == 0
    (folder / "out" / "kept_layers.json").write_text("{}")
    assert "names no kept layers" in invoke(*recipe, str(folder / "out"), "--resume").output


def test_tokens_of_a_start_that_failed_are_not_taken_for_another_text(run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, invoke = run
    monkeypatch.setattr("anysize_training.distill.corpus._is_writable", lambda _folder: False)
    (folder / "other.txt").write_text("something else entirely, again and again\n\n" * 60)
    words = ["distill", "--recipe", str(folder / "recipe.yaml"), "--out"]
    assert invoke(*words, str(folder / "out"), "--set", "patch_order=[1, 1, 2]").exit_code == 2
    other = ["--set", f"data.source={folder / 'other.txt'}"]
    assert invoke(*words, str(folder / "out"), *other).exit_code == 0
    assert invoke(*words, str(folder / "fresh"), *other).exit_code == 0
    assert provenance_of(folder / "out").tokens_sha256 == provenance_of(folder / "fresh").tokens_sha256


def test_a_bfloat16_teacher_trains_a_float32_student_that_is_written_with_the_whole_teacher(run) -> None:
    folder, invoke = run
    words = ["distill", "--recipe", str(folder / "recipe.yaml"), "--out", str(folder / "out")]
    for change in ("student.kind=full", "run.dtype=bfloat16", "run.teacher_dtype=bfloat16", "data.held_out=2"):
        words += ["--set", change]
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    family = Family.load(folder / "out" / "family", dtype=torch.float32, device=CPU)
    ids = torch.randint(3, 250, (1, 9))
    exact = tiny_model(tiny_config("llama", 6), 0)(ids).logits
    assert torch.equal(family.assemble(family.teacher.variant)(ids).logits, exact)
    student = next(iter(family.bank.student.parameters()))
    assert not torch.equal(student, student.bfloat16().float())
