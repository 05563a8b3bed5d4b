"""The plan of a recipe: which sizes it makes and what it costs, from shapes alone. Reads no weights and no text."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig

from anysize.errors import ArtifactError, FetchError
from anysize.family.architectures import architecture_of
from anysize.family.bank import Bank
from anysize.family.footprint import footprint_of
from anysize.family.order import nested_ladder
from anysize.family.pretrained import load_config
from anysize.family.variant import Variant
from anysize_training.distill.initialise import initial_bank
from anysize_training.distill.optimizer import trained_parameters
from anysize_training.distill.recipe import Recipe

_PACKAGED = resources.files("anysize_training") / "recipes" / "teachers"


@dataclass(frozen=True, slots=True)
class PlannedSize:
    """A size of the nested ladder: its id, depth, inference parameters, and their share of the teacher's."""

    variant: str
    layers: int
    parameters: int
    fraction: float


@dataclass(frozen=True, slots=True)
class Flops:
    """Training FLOPs in closed form: tokens times 4 s + 2 t + 2 T.

    s are the parameters of a student's layers, final norm and LM head, t the trained ones of them, T the teacher's.
    Forward takes 2 for each, backward 2 to pass through and 2 for the gradient of what is trained; a `full` student
    (t = s) so takes 6 s + 2 T. Embedding lookups, attention scores and the optimizer are left out.

    Attributes:
        distillation: of the recipe's student, after which every interior size is free.
        interior_sizes: of a student of each interior depth, each distilled by itself on as many tokens.
        ratio: the second over the first (paper, Table 3).
    """

    distillation: float
    interior_sizes: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Memory:
    """An estimate of what each of some devices holds besides activations, logits and buffers.

    Attributes:
        processes: one a device; where the run shards, each holds its part of everything.
        student_bytes, gradients_bytes, moments_bytes: of the trained parameters, in float32; AdamW has two moments.
        teacher_bytes: in the recipe's `run.teacher_dtype`, tied tensors once.
    """

    processes: int
    student_bytes: int
    gradients_bytes: int
    moments_bytes: int
    teacher_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the paper prints about a teacher and its student (Tables 1 and 3), and where that is not the arithmetic."""

    teacher_billions: float | None = None
    student_train_billions: float | None = None
    student_billions: float | None = None
    distillation_flops: float | None = None
    interior_sizes_flops: float | None = None
    ratio: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a recipe makes and costs.

    Attributes:
        blocks: first and last teacher layer of each block, counted from 0.
        teacher_parameters, student_parameters: at inference, embedding and LM head counted separately (Table 1).
        student_train_parameters: that the run changes, tied tensors once.
        sizes: the nested ladder, smallest first; `interior_sizes` of them lie between student and teacher.
        paper: of this teacher and the paper's own student of it.
    """

    recipe: str
    teacher: str
    student_kind: str
    teacher_layers: int
    student_layers: int
    blocks: tuple[tuple[int, int], ...]
    teacher_parameters: int
    student_train_parameters: int
    student_parameters: int
    sizes: tuple[PlannedSize, ...]
    interior_sizes: int
    tokens: int
    flops: Flops
    memory: Memory
    paper: Published | None


def make_plan(recipe: Recipe, *, processes: int = 1) -> Plan:
    """Plan a recipe.

    Args:
        recipe: what would be run.
        processes: how many would run it together.

    Raises:
        FetchError: the teacher's config cannot be brought from the hub.
        ArtifactError: the config describes no supported model.
        BlockMapError: the kept layers do not fit the teacher.
        VariantError: the patch order does not fit the student.
    """
    bank = _weightless_bank(recipe)
    blocks, positions = bank.blocks, bank.blocks.student_layers
    teacher = footprint_of(bank, Variant.teacher(positions))
    sizes = []
    for variant in nested_ladder(recipe.patch_order, positions, lambda rung: footprint_of(bank, rung).parameters):
        parameters = footprint_of(bank, variant).parameters
        sizes.append(PlannedSize(variant.id, variant.depth(blocks), parameters, parameters / teacher.parameters))
    interior = [size.layers for size in sizes if positions < size.layers < blocks.teacher_layers]
    tokens = recipe.run.steps * recipe.run.batch_size * recipe.data.sequence_length
    flops_of = flops_of_token(bank, full=recipe.student.kind == "full")
    once, each = tokens * flops_of(positions), tokens * sum(map(flops_of, interior))
    trained = _count(trained_parameters(bank, recipe).values())
    published = yaml.safe_load((_PACKAGED / "published.yaml").read_text(encoding="utf-8")).get(recipe.teacher)
    return Plan(
        recipe=recipe.name,
        teacher=recipe.teacher,
        student_kind=recipe.student.kind,
        teacher_layers=blocks.teacher_layers,
        student_layers=positions,
        blocks=tuple((block[0], block[-1]) for block in blocks.blocks),
        teacher_parameters=teacher.parameters,
        student_train_parameters=trained,
        student_parameters=footprint_of(bank, Variant.student(positions)).parameters,
        sizes=tuple(sizes),
        interior_sizes=len(interior),
        tokens=tokens,
        flops=Flops(float(once), float(each), each / once),
        memory=_memory(recipe, processes, trained, teacher.distinct_parameters),
        paper=Published(**published) if published else None,
    )


def flops_of_token(bank: Bank, *, full: bool) -> Callable[[int], int]:
    """FLOPs of one training token by the student's depth; the layers of one model are all of one size."""
    architecture, teacher, student = bank.architecture, bank.teacher, bank.student
    norm = _count(architecture.norm_of(teacher).parameters())
    ends = norm + _count(architecture.head_of(teacher).parameters())
    of_teacher = ends + sum(_count(layer.parameters()) for layer in architecture.layers_of(teacher))
    layer = list(architecture.layers_of(student)[0].parameters())
    shared = {id(parameter) for parameter in teacher.parameters()}
    own = _count(parameter for parameter in layer if id(parameter) not in shared)

    def flops(depth: int) -> int:
        used = ends + depth * _count(layer)
        return 4 * used + 2 * (used if full else norm + depth * own) + 2 * of_teacher

    return flops


def _memory(recipe: Recipe, processes: int, trained: int, teacher: int) -> Memory:
    parts = processes if recipe.run.parallel == "shard" else 1
    student = math.ceil(trained / parts)
    of_teacher = math.ceil(teacher / parts) * (4 if recipe.run.teacher_dtype == "float32" else 2)
    return Memory(
        processes=processes,
        student_bytes=4 * student,
        gradients_bytes=4 * student,
        moments_bytes=8 * student,
        teacher_bytes=of_teacher,
        total_bytes=16 * student + of_teacher,
    )


def _weightless_bank(recipe: Recipe) -> Bank:
    config = _teacher_config(recipe.teacher)
    architecture = architecture_of(config, recipe.teacher)
    try:
        with torch.device("meta"):
            teacher = AutoModelForCausalLM.from_config(config)
    except Exception as error:
        raise ArtifactError(recipe.teacher, f"its config describes no model that can be built: {error}") from error
    return initial_bank(recipe.student, teacher, architecture, seed=recipe.run.seed)


def _teacher_config(name: str) -> PreTrainedConfig:
    packaged = f"{name.replace('/', '--').replace(':', '--')}.json"
    if Path(name).is_dir():
        return load_config(Path(name))
    if any(entry.name == packaged for entry in _PACKAGED.iterdir()):
        values = json.loads((_PACKAGED / packaged).read_text(encoding="utf-8"))
        return CONFIG_MAPPING[values["model_type"]].from_dict(values)
    try:
        # B615 asks for a revision; JSON with numbers is all that is read, and no weight (2026-11-24).
        config = hf_hub_download(name, "config.json")  # nosec B615
        return load_config(Path(config).parent)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise FetchError(f"{name} is no folder, and its config cannot be had: {error}") from error


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
