"""What a sweep is: a recipe, what each of its arms changes, and the seeds. Frozen data, read from YAML."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from anysize.errors import SettingsError
from anysize.family.order import OrderName
from anysize_training.distill.recipe import Recipe
from anysize_training.distill.recipe_files import load_recipe

_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._+-]{0,63}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(_Part):
    """One way to distil.

    Attributes:
        label: in tables and pictures; the arm's name by default.
        changes: values of the recipe, by their dotted names.
        patch_order: in which its sizes are made; the recipe's by default. Costs no training.
        only_student: whether nothing is patched into it, as in standard distillation.
    """

    label: str | None = Field(default=None, max_length=80)
    changes: dict[str, Any] = {}
    patch_order: OrderName | None = None
    only_student: bool = False


class Sweep(_Part):
    """Arms that are compared.

    Attributes:
        name: of the sweep.
        shows: what of the paper it repeats, or asks beyond it.
        recipe: that all arms begin with, a shipped one or a file.
        arms: by name.
        seeds: of initialisation and data order, for each arm.
    """

    name: _Name
    shows: str = Field(max_length=400)
    recipe: str
    arms: dict[_Name, Arm] = Field(min_length=1, max_length=64)
    seeds: tuple[Annotated[int, Field(ge=0, lt=1 << 32)], ...] = Field(default=(0, 1, 2), min_length=1, max_length=64)

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} name one twice")
        return self

    def recipe_of(self, arm: Arm, seed: int, overrides: list[str]) -> Recipe:
        """The recipe of one run.

        Raises:
            SettingsError: there is no such recipe, or a value is wrong.
        """
        changes = [f"{name}={yaml.safe_dump(value, default_flow_style=True)}" for name, value in arm.changes.items()]
        return load_recipe(self.recipe, [*overrides, *changes, f"run.seed={seed}"])


def shipped_sweeps() -> list[str]:
    """The names that `load_sweep` knows without a path."""
    folder = resources.files("anysize_training") / "recipes" / "sweeps"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_sweep(name_or_file: str) -> Sweep:
    """Read a sweep.

    Args:
        name_or_file: a shipped sweep's name, or the path of a YAML file.

    Raises:
        SettingsError: there is none, or a value is wrong, naming the key.
    """
    if name_or_file in shipped_sweeps():
        path = Path(str(resources.files("anysize_training"))) / "recipes" / "sweeps" / f"{name_or_file}.yaml"
    elif name_or_file.endswith((".yaml", ".yml")):
        path = Path(name_or_file)
    else:
        raise SettingsError(f"no sweep {name_or_file!r}; shipped are {', '.join(shipped_sweeps())}, or name a .yaml")
    try:
        return Sweep.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"cannot read sweep {name_or_file}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"sweep {name_or_file}: {where}: {first['msg']}") from error
