"""Sweeps: each run once, each size scored as plain transformers scores it, seeds summarised."""

import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import save_checkpoint_folder, tiny_config, tiny_model
from typer.testing import CliRunner

from anysize.errors import SettingsError
from anysize.family.assembly import assemble
from anysize.family.family import Family
from anysize_training.cli import app
from anysize_training.study.sweep.runs import Score, Scored
from anysize_training.study.sweep.summary import summarise
from anysize_training.study.sweep.sweep import load_sweep, shipped_sweeps
from anysize_training.study.texts import Text

SWEEP = """
name: two
shows: "one thing changed"
recipe: {recipe}
arms:
  all: {{label: everything}}
  backwards: {{patch_order: first_to_last}}
  ce: {{changes: {{objective.kl: 0.0, objective.cosine: 0.0}}, only_student: true}}
seeds: [0, 1]
"""
RECIPE = """
name: tiny
teacher: {teacher}
student: {{initialise: {{method: every_nth, n: 2, first: 1, last: 2}}}}
data: {{source: {text}, sequence_length: 16, cache: {cache}}}
run: {{steps: 2, batch_size: 2, micro_batch_size: 2}}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    save_checkpoint_folder(tiny_model(tiny_config("llama", 6), seed=1), tmp_path / "teacher")
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"The sea of number {number} is deep and blue." for number in range(60)))
    names = {"teacher": tmp_path / "teacher", "text": text, "cache": tmp_path / "tokens"}
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(**names))
    (tmp_path / "two.yaml").write_text(SWEEP.format(recipe=tmp_path / "recipe.yaml"))
    return tmp_path


def swept(files: Path, *more: str) -> dict[str, Any]:
    arguments = ["sweep", str(files / "two.yaml"), "--out", str(files / "runs"), "--text", str(files / "text.txt")]
    done = CliRunner().invoke(app, [*arguments, "--max-tokens", "128", "--window", "32", "--json", *more])
    assert done.exit_code == 0, done.output
    return json.loads((files / "runs" / "two.json").read_text())


def runs_of(files: Path) -> list[Path]:
    return [path for path in (files / "runs").iterdir() if path.is_dir()]


def test_a_sweep_scores_every_size_of_every_arm_over_seeds(files: Path):
    report = swept(files, "--plot", str(files / "two.png"))
    assert (files / "two.png").stat().st_size > 1000
    assert report["study"] == "sweep"
    assert list(report["arms"]) == ["all", "backwards", "ce"]
    assert [size["variant"] for size in report["arms"]["all"]["sizes"]] == ["student", "p2-4", "teacher"]
    assert [size["variant"] for size in report["arms"]["ce"]["sizes"]] == ["student"]
    # The same students, patched from the other end: trained once.
    assert len(runs_of(files)) == 4
    # An independent look: transformers' own loss on the same windows.
    means: dict[str, list[float]] = {}
    for run in runs_of(files):
        recipe = json.loads((run / "recipe.json").read_text())
        if recipe["objective"]["kl"] == 0:
            continue
        family = Family.load(run / "family", dtype=torch.float32, device=torch.device("cpu"))
        windows = Text(files / "text.txt", 0, 128, 32, wikitext=False).windows(family.tokenizer)
        for id_ in ("student", "p2-4"):
            model: Any = assemble(family.bank, family.parse(id_))
            loss = model(input_ids=windows.tokens_NL, labels=windows.tokens_NL).loss.item()
            means.setdefault(id_, []).append(math.exp(loss))
    sizes = {size["variant"]: size for size in report["arms"]["all"]["sizes"]}
    for id_, perplexities in means.items():
        found = sizes[id_]["perplexity"]
        assert found["mean"] == pytest.approx(statistics.fmean(perplexities), rel=1e-4)
        assert found["deviation"] == pytest.approx(statistics.stdev(perplexities), rel=1e-2)
    assert sizes["teacher"]["kl"]["mean"] == pytest.approx(0, abs=1e-6)
    assert sizes["student"]["seeds"] == 2


def test_what_has_been_run_is_not_run_again(files: Path):
    first = swept(files)
    kept = {path: path.stat().st_mtime_ns for run in runs_of(files) for path in run.rglob("*") if path.is_file()}
    second = swept(files)
    assert second["arms"] == first["arms"]
    assert {
        path: path.stat().st_mtime_ns for run in runs_of(files) for path in run.rglob("*") if path.is_file()
    } == kept


@pytest.mark.parametrize("changed", ["teacher", "text"])
def test_what_was_run_on_something_else_is_not_taken_for_the_same(files: Path, changed: str):
    swept(files)
    if changed == "teacher":
        shutil.rmtree(files / "teacher")
        save_checkpoint_folder(tiny_model(tiny_config("llama", 6), seed=2), files / "teacher")
    else:
        (files / "text.txt").write_text((files / "text.txt").read_text().replace("blue", "green"))
    words = ["sweep", str(files / "two.yaml"), "--out", str(files / "runs"), "--text", str(files / "text.txt")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert changed in done.output


def test_seeds_that_kept_other_layers_are_compared_depth_by_depth():
    sweep = load_sweep("random-initialisation")
    first = (Score("student", 2, 10, 9.0, 0.5), Score("p2", 3, 15, 7.0, 0.3), Score("teacher", 4, 20, 5.0, 0.0))
    other = (Score("student", 2, 10, 11.0, 0.7), Score("teacher", 4, 20, 5.0, 0.0))
    third = (Score("student", 2, 10, 10.0, 0.6), Score("p1", 3, 15, 8.0, 0.4), Score("teacher", 4, 20, 5.0, 0.0))
    scored = [Scored("all", seed, scores) for seed, scores in enumerate((first, other, third))]
    points = summarise(sweep, scored)["all"]
    assert [(point.layers, point.seeds, point.perplexity.mean) for point in points] == [
        (2, 3, 10),
        (3, 2, 7.5),
        (4, 3, 5),
    ]
    assert [point.variant for point in points] == ["student", "2 sizes of this depth", "teacher"]


@pytest.mark.parametrize("name", shipped_sweeps())
def test_a_shipped_sweep_makes_recipes(name: str):
    sweep = load_sweep(name)
    recipes = [sweep.recipe_of(arm, seed, []) for arm in sweep.arms.values() for seed in sweep.seeds]
    assert len(recipes) >= 6
    assert {recipe.run.seed for recipe in recipes} == {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds: [0, 1]", "seeds: [1, 1]"), "name one twice"),
        (("objective.kl", "objective.kk"), "objective.kk"),
        (("only_student", "only_students"), "only_students"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_is_run(files: Path, change: tuple[str, str], message: str):
    sweep = files / "two.yaml"
    sweep.write_text(sweep.read_text().replace(*change))
    arguments = ["sweep", str(sweep), "--out", str(files / "runs"), "--text", str(files / "text.txt")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert not (files / "runs").exists()


def test_there_is_no_sweep_of_this_name():
    with pytest.raises(SettingsError, match="loss-ablation"):
        load_sweep("loss-ablations")
