"""`anysize-train distill`: from a recipe to a family folder."""

from collections.abc import Sequence
from pathlib import Path

from anysize.console import say
from anysize_training.distill.pipeline import distill
from anysize_training.distill.recipe_files import load_recipe


def run_distillation(recipe: str, out: Path, override: Sequence[str], *, resume: bool) -> bool:
    """Run a recipe.

    Returns:
        Whether it came to its last step.

    Raises:
        SettingsError: the recipe is wrong, or `out` holds another run.
    """
    loaded = load_recipe(recipe, list(override))
    command = ["anysize-train", "distill", "--recipe", recipe, "--out", str(out)]
    for value in override:
        command += ["--set", value]
    return distill(loaded, out, resume=resume, command=command, say=say) is not None
