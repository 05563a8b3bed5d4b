"""What a recipe makes and costs, against the paper's tables and against a bank with weights."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from fakes import ARCHITECTURES, save_checkpoint_folder, tiny_config, tiny_model
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn
from typer.testing import CliRunner, Result

from anysize.family.architectures import architecture_of
from anysize.family.footprint import footprint_of
from anysize.family.variant import Variant
from anysize_training.cli import app
from anysize_training.distill.initialise import initial_bank
from anysize_training.distill.recipe import FromFamily, Recipe
from anysize_training.distill.recipe_files import load_recipe, shipped_recipes
from anysize_training.distill.trainer import trained_parameters
from anysize_training.study.plan import Plan, make_plan

TEACHERS = ("qwen3-4b", "qwen3-8b", "qwen3-14b", "pythia-2.8b", "pythia-6.9b", "pythia-12b", "llama-3.2-3b")


def plan(name: str, *overrides: str) -> Plan:
    return make_plan(load_recipe(name, list(overrides)))


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["plan", *words], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def billions(made: Plan) -> tuple[float, float, float]:
    teacher, train, student = made.teacher_parameters, made.student_train_parameters, made.student_parameters
    return round(teacher / 1e9, 1), round(train / 1e9, 1), round(student / 1e9, 1)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("paper-qwen3-4b", (4.4, 2.3, 2.7)),
        ("paper-pythia-2.8b", (2.8, 1.6, 1.6)),
        ("paper-pythia-6.9b", (6.9, 3.8, 3.8)),
        ("paper-llama-3.2-3b", (3.6, 1.9, 2.3)),
    ],
)
def test_parameters_are_those_of_table_one(name: str, row: tuple[float, float, float]) -> None:
    made = plan(name)
    assert billions(made) == row
    paper = made.paper
    assert paper is not None
    assert (paper.teacher_billions, paper.student_train_billions, paper.student_billions) == row


def test_where_table_one_counts_a_matrix_twice_the_plan_says_so() -> None:
    made = plan("paper-qwen3-8b")
    paper = made.paper
    assert paper is not None
    embedding = 151936 * 4096
    assert made.student_train_parameters == made.student_parameters
    assert (round(made.teacher_parameters / 1e9, 2), round(made.student_parameters / 1e9, 2)) == (8.19, 4.91)
    assert round((made.teacher_parameters + embedding) / 1e9, 1) == paper.teacher_billions == 8.8
    assert round((made.student_parameters + embedding) / 1e9, 2) == 5.53
    assert paper.note is not None
    for figure in ("8.19B", "4.91B", "5.53B", "0.62B"):
        assert figure in paper.note


def test_a_student_of_five_layers_is_as_small_as_the_note_says() -> None:
    made = plan("paper-qwen3-4b", "student.initialise={method: layers, layers: [0, 1, 2, 3, 4]}")
    whole = plan("paper-qwen3-4b")
    layer = whole.sizes[1].parameters - whole.sizes[0].parameters
    assert round(5 * layer / 1e6) == 505
    assert round(made.teacher_parameters / (5 * layer), 1) == 8.7
    assert made.teacher_layers / made.student_layers == 7.2
    assert round(made.teacher_parameters / made.student_parameters, 1) == 3.4


@pytest.mark.parametrize(
    ("name", "layers", "interior", "ratio"),
    [
        ("paper-qwen3-4b", 19, 16, 19.17),
        ("paper-pythia-2.8b", 17, 14, 17.01),
        ("paper-llama-3.2-3b", 15, 12, 14.53),
    ],
)
def test_sizes_and_flops_are_those_of_table_three(name: str, layers: int, interior: int, ratio: float) -> None:
    made = plan(name)
    assert (made.student_layers, made.interior_sizes, len(made.sizes)) == (layers, interior, interior + 2)
    assert made.tokens == 500 * 2048 * 2048
    assert made.flops.ratio == pytest.approx(ratio, rel=0.05)
    assert made.flops.ratio == made.flops.interior_sizes / made.flops.distillation
    assert made.paper is not None
    assert made.paper.ratio == ratio
    assert made.flops.distillation == pytest.approx(made.paper.distillation_flops, rel=0.1)
    assert made.flops.interior_sizes == pytest.approx(made.paper.interior_sizes_flops, rel=0.1)


def test_flops_of_a_full_student_are_six_of_it_and_two_of_its_teacher() -> None:
    made = plan("paper-pythia-2.8b")
    embedding = 50304 * 2560
    of_teacher = 2 * (made.teacher_parameters - embedding)
    once = 6 * (made.student_parameters - embedding) + of_teacher
    each = sum(6 * (size.parameters - embedding) + of_teacher for size in made.sizes[1:-1])
    assert made.flops.distillation == pytest.approx(once * made.tokens)
    assert made.flops.interior_sizes == pytest.approx(each * made.tokens)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_the_papers_recipes_have_the_values_of_table_two(teacher: str) -> None:
    recipe = load_recipe(f"paper-{teacher}", [])
    table = Recipe.model_validate({"name": "table-2", "teacher": "any", "data": {"source": "any"}})
    assert (recipe.objective, recipe.optimizer) == (table.objective, table.optimizer)
    assert (recipe.run.steps, recipe.run.batch_size, recipe.data.sequence_length) == (500, 2048, 2048)
    assert (recipe.run.dtype, recipe.student.kind) == ("bfloat16", "full")
    assert recipe.patch_order == ("first_to_last" if "llama" in teacher else "last_to_first")


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_has_a_plan(name: str) -> None:
    # One of them goes on from a family that is not made yet; the one that ships has the same layers.
    goes_on = isinstance(load_recipe(name, []).student.initialise, FromFamily)
    start = ["--set", "student.initialise.path=builtin"] if goes_on else []
    if load_recipe(name, []).teacher.startswith("runs/"):  # a teacher that is not made yet
        start = ["--set", "teacher=builtin:smollm2-135m"]
    if goes_on:
        assert "distil that family first" in run(name).output
    printed = run(name, "--json", *start)
    assert printed.exit_code == 0, printed.output
    assert printed.stdout.count("\n") == 1
    made = json.loads(printed.stdout)
    parameters = [size["parameters"] for size in made["sizes"]]
    assert parameters == sorted(set(parameters))
    assert (parameters[0], parameters[-1]) == (made["student_parameters"], made["teacher_parameters"])
    assert made["blocks"][0][0] == 0
    assert made["blocks"][-1][1] == made["teacher_layers"] - 1
    memory = made["memory"]
    assert memory["student_bytes"] == memory["gradients_bytes"] == memory["moments_bytes"] / 2
    table = run(name, *start)
    assert table.exit_code == 0, table.output
    assert f"{made['sizes'][-1]['parameters']:,}" in table.stdout
    assert ("paper" in table.stdout.splitlines()[2]) == (made["paper"] is not None)


@pytest.mark.parametrize("kind", ["full", "delta"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_plan_counts_what_a_bank_with_weights_holds(architecture: str, tied: bool, kind: str, tmp_path: Path) -> None:
    config = tiny_config(architecture, 6, tied=tied)
    save_checkpoint_folder(tiny_model(config, 0), tmp_path / "teacher")
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "teacher": str(tmp_path / "teacher"),
            "student": {"kind": kind, "rank": 3, "initialise": {"method": "layers", "layers": [0, 2, 5]}},
            "data": {"source": "any.txt", "sequence_length": 16},
            "run": {"steps": 5, "batch_size": 4, "micro_batch_size": 2},
        }
    )
    bank = initial_bank(recipe.student, tiny_model(config, 0), architecture_of(config, "tiny"), seed=0)
    made = make_plan(recipe)
    for size in made.sizes:
        assert size.parameters == footprint_of(bank, Variant.parse(size.variant, 3)).parameters
    trained = sum(parameter.numel() for parameter in trained_parameters(bank, recipe).values())
    assert made.student_train_parameters == trained
    distinct = sum(parameter.numel() for parameter in bank.teacher.parameters())
    assert made.memory.total_bytes == 16 * trained + 4 * distinct
    assert made.blocks == ((0, 1), (2, 4), (5, 5))
    assert made.tokens == 5 * 4 * 16


def test_frozen_weights_of_a_delta_student_cost_no_gradient() -> None:
    made, full = plan("smollm2-135m-first"), plan("smollm2-135m-first", "student.kind=full")
    embedding = 49152 * 576
    updates = made.student_train_parameters - 11 * 2 * 576 - 576
    of_teacher = 2 * (made.teacher_parameters - embedding)
    used = made.student_parameters - embedding + updates
    once = 4 * used + 2 * made.student_train_parameters + of_teacher
    assert made.flops.distillation == pytest.approx(once * made.tokens)
    assert made.flops.distillation < full.flops.distillation
    assert made.memory.total_bytes < full.memory.total_bytes


def test_a_student_as_deep_as_its_teacher_has_no_interior_sizes() -> None:
    made = plan("paper-qwen3-4b", "student.initialise.n=1")
    assert (made.student_layers, made.interior_sizes, made.flops.ratio) == (36, 0, 0)


def test_a_plan_allocates_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = set()
    register = nn.Module.register_parameter

    def watched(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            devices.add(parameter.device)
        register(module, name, parameter)

    monkeypatch.setattr(nn.Module, "register_parameter", watched)
    plan("paper-qwen3-14b")
    assert devices == {torch.device("meta")}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.initialise.first=40", "does not fit 36 layers"),
        ("patch_order=[1, 2]", "positions 1 to 19"),
        ("teacher=not a name", "is no folder"),
        ("run.steps=0", "run.steps"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(override: str, message: str) -> None:
    failed = run("paper-qwen3-4b", "--set", override)
    assert failed.exit_code == 2
    assert failed.stdout == ""
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    assert message in failed.stderr


def test_another_teachers_config_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny_config("llama", 6).save_pretrained(tmp_path)
    asked = []

    def download(*words: str) -> str:
        asked.append(words)
        return str(tmp_path / "config.json")

    monkeypatch.setattr("anysize_training.study.plan.hf_hub_download", download)
    made = plan("paper-qwen3-4b", "teacher=somebody/tiny")
    assert (made.teacher_layers, made.paper) == (6, None)
    assert asked == [("somebody/tiny", "config.json")]


def test_a_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*words: str) -> str:
        raise LocalEntryNotFoundError("no connection\nand more of it")

    monkeypatch.setattr("anysize_training.study.plan.hf_hub_download", download)
    failed = run("paper-qwen3-4b", "--set", "teacher=somebody/tiny")
    assert failed.exit_code == 2
    assert (
        failed.stderr
        == "error: somebody/tiny is no folder, and its config cannot be had: no connection and more of it\n"
    )


def test_a_recipe_or_a_config_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 30, "head_dim": -1}))
    recipe = {"name": "broken", "teacher": str(tmp_path), "data": {"source": "any"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for words in (["teachers"], [str(tmp_path / "recipe.yaml")]):
        failed = run(*words, "--json")
        assert failed.exit_code == 2, failed.output
        assert failed.stdout == ""
        assert failed.stderr.count("\n") == 1


def test_a_sharded_run_holds_its_part_and_a_replica_holds_all() -> None:
    recipe = load_recipe("paper-qwen3-4b", [])
    alone, quarter = (make_plan(recipe, processes=count).memory for count in (1, 4))
    # The teacher in bfloat16, and weights, gradients and two moments of the student in float32.
    assert alone.total_bytes == 16 * make_plan(recipe).student_train_parameters + alone.teacher_bytes
    assert quarter.total_bytes == pytest.approx(alone.total_bytes / 4, abs=32)
    replicas = load_recipe("paper-qwen3-4b", ["run.parallel=replicate"])
    assert make_plan(replicas, processes=4).memory.total_bytes == alone.total_bytes
