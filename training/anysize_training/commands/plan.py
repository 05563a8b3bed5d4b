"""`anysize-train plan`: what a recipe makes and costs, without weights."""

from collections.abc import Sequence
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from anysize.console import print_json, terminal
from anysize_training.distill.recipe_files import load_recipe
from anysize_training.study.plan import Plan, Published, make_plan


def plan_recipe(recipe: str, override: Sequence[str], *, processes: int, as_json: bool) -> None:
    """Print the plan of a recipe.

    Raises:
        SettingsError: there is no such recipe, or a value of it is wrong.
    """
    planned = make_plan(load_recipe(recipe, list(override)), processes=processes)
    if as_json:
        print_json(asdict(planned))
        return
    terminal.print(*_tables(planned), sep="\n")


def _tables(plan: Plan) -> tuple[Table, Table]:
    """The plan for people: its figures, beside the paper's where there are any, and its sizes."""
    paper, memory, flops = plan.paper or Published(), plan.memory, plan.flops
    spans = " ".join(str(first) if first == last else f"{first}-{last}" for first, last in plan.blocks)
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
        (f"memory per device, {memory.processes} of them (estimate)", f"{memory.total_bytes / 1e9:.1f} GB", None),
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


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.3f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M"
