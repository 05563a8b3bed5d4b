"""Reading recipes: YAML files, of which some ship with the package, and values given on the command line.

The shipped ones lie in `anysize_training/recipes`. Any value can be overridden by its dotted name, such as
`--set optimizer.learning_rate=1e-3`.
"""

from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from anysize.errors import SettingsError
from anysize_training.distill.recipe import Recipe


def shipped_recipes() -> list[str]:
    """The names that `load_recipe` knows without a path."""
    folder = resources.files("anysize_training") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name_or_file: str, overrides: list[str]) -> Recipe:
    """Read a recipe and apply overrides.

    Args:
        name_or_file: a shipped recipe's name, or the path of a YAML file.
        overrides: `dotted.name=value` each, the value as YAML.

    Raises:
        SettingsError: no such recipe, an unknown or ill-typed value, naming the key.
    """
    path = Path(name_or_file)
    if path.suffix in {".yaml", ".yml", ".json"}:
        if not path.is_file():
            raise SettingsError(f"recipe {path} does not exist")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"cannot read recipe {path}: {error}") from error
    elif name_or_file in shipped_recipes():
        text = (resources.files("anysize_training") / "recipes" / f"{name_or_file}.yaml").read_text(encoding="utf-8")
    else:
        raise SettingsError(f"no recipe {name_or_file!r}; shipped are {', '.join(shipped_recipes())}, or name a .yaml")
    try:
        values = yaml.safe_load(text)
        for override in overrides:
            _override(values, override)
        return Recipe.model_validate(values)
    except yaml.YAMLError as error:
        raise SettingsError(f"recipe {name_or_file}: no YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"recipe {name_or_file}: {where}: {first['msg']}") from error


def _override(values: Any, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set {override!r}: expected dotted.name=value, such as optimizer.learning_rate=1e-3")
    *parents, last = key.split(".")
    here = values
    for parent in parents:
        here = here.setdefault(parent, {}) if isinstance(here, dict) else None
    if not isinstance(here, dict):
        raise SettingsError(f"--set {override!r}: {key} is inside a value, not a section")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {override!r}: the value is no YAML: {error}") from error
    # YAML 1.1 reads 1e-3 as text, because it wants a dot in a float.
    if isinstance(parsed, str):
        with suppress(ValueError):
            parsed = float(parsed) if parsed[:1] in "+-.0123456789" else parsed
    here[last] = parsed
