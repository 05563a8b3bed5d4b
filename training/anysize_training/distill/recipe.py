"""Recipes: everything that decides a distillation run, as frozen data.

A recipe is a YAML file; the shipped ones lie in `anysize_training/recipes`. Any value can be overridden by its dotted
name, such as `--set optimizer.learning_rate=1e-3`.
"""

from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anysize.errors import SettingsError
from anysize.family.order import OrderName

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EveryNth(_Part):
    """Keep every n-th layer, the first `first` and the last `last` (paper, Equations 2 and 3)."""

    method: Literal["every_nth"] = "every_nth"
    n: int = Field(default=2, ge=1)
    first: int = Field(default=1, ge=1)
    last: int = Field(default=2, ge=0)


class KeptLayers(_Part):
    """Keep the listed teacher layers, counted from 0."""

    method: Literal["layers"] = "layers"
    layers: tuple[int, ...]


class Student(_Part):
    """What is trained.

    Attributes:
        kind: `full` trains weights of its own (the paper), `delta` low-rank updates over the kept teacher layers.
        rank: of the updates; `delta` only.
        initialise: which teacher layers are kept.
        stored_dtype: of the student's file; training itself is in float32.
    """

    kind: Literal["full", "delta"] = "full"
    rank: int = Field(default=32, ge=1, le=1024)
    initialise: Annotated[EveryNth | KeptLayers, Field(discriminator="method")] = EveryNth()
    stored_dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class Data(_Part):
    """What it is trained on.

    Attributes:
        source: a `.jsonl`, `.txt` or `.parquet` file, or the name of a Hugging Face dataset.
        subset: configuration of a Hugging Face dataset.
        split: split of a Hugging Face dataset.
        text_field: the field that holds the text.
        first_row, rows: the slice of the rows that is used.
        sequence_length: tokens in one training sequence; documents are packed end to end.
        separator: token put between documents; the tokenizer's end of sequence by default.
    """

    source: str
    subset: str | None = None
    split: str = "train"
    text_field: str = "text"
    first_row: int = Field(default=0, ge=0)
    rows: int | None = Field(default=None, ge=1)
    sequence_length: int = Field(default=2048, ge=8, le=1 << 20)
    separator: str | None = None


class Objective(_Part):
    """Equation 1 and its weights (paper, Table 2).

    Attributes:
        cross_entropy: weight of the cross entropy; 1 in the paper.
        kl: lambda_KL.
        cosine: lambda_cos times (M + 1): each of the M distances has weight `cosine / (M + 1)`.
        temperature: tau of the KL divergence.
    """

    cross_entropy: Weight = 1.0
    kl: Weight = 0.1
    cosine: Weight = 2.0
    temperature: Positive = 1.0


class Optimizer(_Part):
    """AdamW with a cosine schedule after a linear warm-up (paper, Table 2)."""

    learning_rate: Positive = 3e-4
    final_learning_rate_ratio: Fraction = 0.0
    warmup_ratio: Fraction = 0.01
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    epsilon: Positive = 1e-8
    weight_decay: Weight = 0.1
    max_grad_norm: Positive = 1.0


class Run(_Part):
    """How long and how large.

    Attributes:
        steps: optimizer steps.
        batch_size: sequences in one optimizer step.
        micro_batch_size: sequences that go through the models at once; divides `batch_size`.
        checkpoint_every: steps between checkpoints; the newest two are kept.
        dtype: of the forward pass; `bfloat16` autocasts over float32 weights.
        device: `cpu`, `cuda`, or `auto`.
        seed: of initialisation and data order.
    """

    steps: int = Field(default=500, ge=1)
    batch_size: int = Field(default=2048, ge=1)
    micro_batch_size: int = Field(default=8, ge=1)
    checkpoint_every: int = Field(default=50, ge=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"
    seed: int = Field(default=0, ge=0, lt=1 << 32)

    def model_post_init(self, _context: Any) -> None:
        """Check that micro-batches fill the batch."""
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")


class Recipe(_Part):
    """One distillation run, whole.

    Attributes:
        name: of the family that comes out.
        teacher: `builtin:smollm2-135m`, a checkpoint folder, or a Hugging Face model name.
        patch_order: in which positions are patched as sizes grow (paper, Appendix B).
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    teacher: str
    student: Student = Student()
    patch_order: OrderName | tuple[int, ...] = "last_to_first"
    data: Data
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    run: Run = Run()


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
        text = path.read_text(encoding="utf-8")
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
    parsed = yaml.safe_load(value)
    # YAML 1.1 reads 1e-3 as text, because it wants a dot in a float.
    if isinstance(parsed, str):
        with suppress(ValueError):
            parsed = float(parsed) if parsed[:1] in "+-.0123456789" else parsed
    here[last] = parsed
