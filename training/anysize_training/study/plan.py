"""The plan of a recipe: which sizes it makes and what it costs, from shapes alone. Reads no weights and no text."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from rich.markup import escape
from rich.table import Table
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
    """An estimate of what one device holds besides activations, logits and buffers; nothing is sharded.

    Attributes:
        student_bytes, gradients_bytes, moments_bytes: of the trained parameters, in float32; AdamW has two moments.
        teacher_float32_bytes: the teacher as the trainer keeps it, tied tensors once; counted in `total_bytes`.
        teacher_bfloat16_bytes: the teacher as the paper's authors keep it.
    """

    student_bytes: int
    gradients_bytes: int
    moments_bytes: int
    teacher_float32_bytes: int
    teacher_bfloat16_bytes: int
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


def make_plan(recipe: Recipe) -> Plan:
    """Plan a recipe.

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
    flops_of_token = _flops_of_token(bank, full=recipe.student.kind == "full")
    once, each = tokens * flops_of_token(positions), tokens * sum(map(flops_of_token, interior))
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
        memory=Memory(
            student_bytes=4 * trained,
            gradients_bytes=4 * trained,
            moments_bytes=8 * trained,
            teacher_float32_bytes=4 * teacher.distinct_parameters,
            teacher_bfloat16_bytes=2 * teacher.distinct_parameters,
            total_bytes=16 * trained + 4 * teacher.distinct_parameters,
        ),
        paper=Published(**published) if published else None,
    )


def plan_tables(plan: Plan) -> tuple[Table, Table]:
    """The plan for people: its figures, beside the paper's where there are any, and its sizes."""
    paper, memory, flops = plan.paper or Published(), plan.memory, plan.flops
    spans = " ".join(str(first) if first == last else f"{first}-{last}" for first, last in plan.blocks)
    smaller_bytes = memory.total_bytes - memory.teacher_float32_bytes + memory.teacher_bfloat16_bytes
    rows = (
        ("teacher layers, N", f"{plan.teacher_layers}", None),
        (f"student layers, M ({plan.student_kind})", f"{plan.student_layers}", None),
        ("teacher layers of each block", spans, None),
        ("teacher inference parameters", _billions(plan.teacher_parameters), paper.teacher_billions),
        ("student train parameters", _billions(plan.student_train_parameters), paper.student_train_billions),
        ("student inference parameters", _billions(plan.student_parameters), paper.student_billions),
        ("tokens", f"{plan.tokens:,}", None),
        ("FLOPs of the distillation", f"{flops.distillation:.3g}", paper.distillation_flops),
        (f"FLOPs of {plan.interior_sizes} interior sizes", f"{flops.interior_sizes:.3g}", paper.interior_sizes_flops),
        ("ratio of the two", f"{flops.ratio:.2f}", paper.ratio),
        ("memory (estimate)", f"{memory.total_bytes / 1e9:.1f} GB", None),
        ("with a bfloat16 teacher (estimate)", f"{smaller_bytes / 1e9:.1f} GB", None),
    )
    columns = ("", "plan", "paper") if plan.paper else ("", "plan")
    title = escape(f"{plan.recipe}: {plan.teacher}")
    facts = Table(*columns, title=title, caption=paper.note, caption_justify="left")
    for name, ours, theirs in rows:
        printed = f"{theirs:.4g}{' B' * name.endswith('parameters')}" if theirs else ""
        facts.add_row(*(name, ours, printed)[: len(columns)])
    sizes = Table("variant", "layers", "inference parameters", "fraction")
    for size in plan.sizes:
        sizes.add_row(size.variant, f"{size.layers}", f"{size.parameters:,}", f"{size.fraction:.3f}")
    return facts, sizes


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
        return load_config(Path(hf_hub_download(name, "config.json")).parent)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise FetchError(f"{name} is no folder, and its config cannot be had: {error}") from error


def _flops_of_token(bank: Bank, *, full: bool) -> Callable[[int], int]:
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


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.3f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M"
