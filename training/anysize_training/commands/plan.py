"""`anysize-train plan`: what a recipe makes and costs, without weights."""

from collections.abc import Sequence
from dataclasses import asdict

from anysize.console import print_json, terminal
from anysize_training.distill.recipe import load_recipe
from anysize_training.study.plan import make_plan, plan_tables


def plan_recipe(recipe: str, override: Sequence[str], *, as_json: bool) -> None:
    """Print the plan of a recipe.

    Raises:
        SettingsError: there is no such recipe, or a value of it is wrong.
    """
    planned = make_plan(load_recipe(recipe, list(override)))
    if as_json:
        print_json(asdict(planned))
        return
    terminal.print(*plan_tables(planned), sep="\n")
