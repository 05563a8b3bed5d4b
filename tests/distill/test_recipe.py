"""Recipes: shipped ones load, overrides work, mistakes are named."""

from pathlib import Path

import pytest

from anysize.errors import SettingsError
from anysize_training.distill.recipe import KeptLayers, Optimizer, Recipe
from anysize_training.distill.recipe_files import load_recipe, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    assert isinstance(load_recipe(name, []), Recipe)


def test_defaults_are_the_papers_table_two() -> None:
    optimizer = Optimizer()
    assert (optimizer.learning_rate, optimizer.warmup_ratio, optimizer.betas) == (3e-4, 0.01, (0.9, 0.95))
    assert (optimizer.epsilon, optimizer.weight_decay, optimizer.max_grad_norm) == (1e-8, 0.1, 1.0)
    recipe = Recipe.model_validate({"name": "a", "teacher": "b", "data": {"source": "c"}})
    assert (recipe.objective.kl, recipe.objective.cosine, recipe.objective.temperature) == (0.1, 2.0, 1.0)
    assert (recipe.run.steps, recipe.run.batch_size, recipe.data.sequence_length) == (500, 2048, 2048)


def test_values_are_overridden_by_their_dotted_names() -> None:
    recipe = load_recipe(
        "smollm2-135m-first",
        ["optimizer.learning_rate=1e-3", "student.rank=8", "data.source=other.txt", "student.initialise.layers=[0, 3]"],
    )
    assert recipe.optimizer.learning_rate == 1e-3
    assert recipe.student.rank == 8
    assert recipe.data.source == "other.txt"
    assert recipe.student.initialise == KeptLayers(layers=(0, 3))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.stepz=3", "run.stepz"),
        ("run.steps=many", "run.steps"),
        ("run.steps=0", "run.steps"),
        ("run.micro_batch_size=3", "does not divide"),
        ("steps", "dotted.name=value"),
        ("name.inner=3", "inside a value"),
        ("student.initialise.method=magic", "student.initialise"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_recipe("smollm2-135m-first", [override])


def test_an_unknown_recipe_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="smollm2-135m"):
        load_recipe("nothing", [])
    with pytest.raises(SettingsError, match="does not exist"):
        load_recipe(str(tmp_path / "none.yaml"), [])
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(SettingsError, match="no YAML"):
        load_recipe(str(broken), [])
