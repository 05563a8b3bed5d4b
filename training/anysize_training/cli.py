"""The command line: `anysize-train init | plan | distill | evaluate | ladder`."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from anysize.console import errors_for_people, print_json, say, terminal

app = typer.Typer(
    name="anysize-train",
    help="Make students, and measure what they are worth.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

FamilyArgument = Annotated[Path, typer.Argument(help="Family folder; `builtin` is the one that ships.")]
TextOption = Annotated[Path, typer.Option("--text", help="A .txt or .jsonl file.", exists=True, dir_okay=False)]
FirstRowOption = Annotated[int, typer.Option(min=0, help="Of a .jsonl file, the first row that is read.")]
WriteOption = Annotated[bool, typer.Option("--write", help="Write the result into the family folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a value: dotted.name=value.")]


@app.callback()
def _main() -> None:
    """Make students, and measure what they are worth."""


@app.command()
def init(
    teacher: Annotated[str, typer.Argument(help="builtin:smollm2-135m, a checkpoint folder, or a hub model's name.")],
    text: TextOption,
    layers: Annotated[int, typer.Option(min=1, help="Student layers, M.")],
    longest_block: Annotated[int, typer.Option(min=1, help="Most layers that one student layer stands for.")] = 5,
    first_row: FirstRowOption = 0,
    max_tokens: Annotated[int, typer.Option(min=64, help="Calibrate on this many tokens.")] = 768,
    window: Annotated[int, typer.Option(min=16, help="Tokens in one window.")] = 128,
    as_json: JsonOption = False,
) -> None:
    """Choose the kept layers by the pruned teacher's KL divergence, before any training.

    Examples: `anysize-train init builtin:smollm2-135m --layers 11 --text wikipedia.jsonl --first-row 7500`
    """
    import torch

    from anysize.family.architectures import architecture_of
    from anysize.family.pretrained import load_model, load_tokenizer
    from anysize.settings import resolve_device
    from anysize_training.distill.selection import KLSelection
    from anysize_training.distill.teacher import find_teacher
    from anysize_training.study.texts import read_windows

    with errors_for_people():
        _, folder = find_teacher(teacher, say)
        device = resolve_device("auto")
        model = load_model(folder, dtype=torch.float32, device=device)
        windows = read_windows(text, load_tokenizer(folder), length=window, max_tokens=max_tokens, first_row=first_row)
        architecture = architecture_of(model.config, str(folder))
        inputs_NL = windows.tokens_NL[:, :-1].to(device)
        search = KLSelection(architecture, model, inputs_NL, longest_block=longest_block)
        path = []
        for selection in search.greedy(layers):
            path.append(selection)
            say(f"{selection.blocks.student_layers} layers, KL {selection.kl:.3f}: {list(selection.blocks.kept)}")
        for selection in search.refine(path[-1]):
            path.append(selection)
            say(f"moved one layer, KL {selection.kl:.3f}: {list(selection.blocks.kept)}")
    if as_json:
        rows = [{"kept_layers": selection.blocks.kept, "kl": selection.kl} for selection in path]
        print_json({"teacher": teacher, "dataset": windows.name, "path": rows})
        return
    best = path[-1]
    terminal.print(
        f"student.initialise.layers={list(best.blocks.kept)}  # KL {best.kl:.3f}", highlight=False, soft_wrap=True
    )


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.")],
    override: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which sizes a recipe makes and what it costs, without reading weights.

    Examples: `anysize-train plan paper-qwen3-4b` | `anysize-train plan my.yaml --set run.steps=100 --json`
    """
    from anysize_training.distill.recipe import load_recipe
    from anysize_training.study.plan import make_plan, plan_tables

    with errors_for_people():
        planned = make_plan(load_recipe(recipe, override or []))
    if as_json:
        print_json(asdict(planned))
        return
    terminal.print(*plan_tables(planned), sep="\n")


@app.command()
def distill(
    recipe: Annotated[str, typer.Option(help="A shipped recipe's name, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the family comes out in OUT/family.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in OUT.")] = False,
    override: SetOption = None,
) -> None:
    """Distil a student.

    Examples: `anysize-train distill --recipe smollm2-135m --out runs/a --set data.source=wikipedia.jsonl` |
    `anysize-train distill --recipe my.yaml --out runs/b --resume`
    """
    from anysize_training.distill.pipeline import distill as run
    from anysize_training.distill.recipe import load_recipe

    with errors_for_people():
        loaded = load_recipe(recipe, override or [])
        command = ["anysize-train", "distill", "--recipe", recipe, "--out", str(out)]
        for value in override or []:
            command += ["--set", value]
        if run(loaded, out, resume=resume, command=command, say=say) is None:
            raise typer.Exit(130)


@app.command()
def evaluate(
    family: FamilyArgument,
    text: TextOption,
    first_row: FirstRowOption = 0,
    max_tokens: Annotated[int, typer.Option(min=64, help="Score at most this many tokens.")] = 16384,
    window: Annotated[int, typer.Option(min=16, help="Tokens scored in one window.")] = 512,
    wikitext: Annotated[bool, typer.Option("--wikitext", help="Undo WikiText's word tokenisation first.")] = False,
    untrained: Annotated[bool, typer.Option("--untrained", help="Also score the student before training.")] = False,
    write: WriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure perplexity, and KL divergence to the teacher, of every size of the ladder.

    Examples: `anysize-train evaluate builtin --text wikitext2_test.txt --wikitext --untrained` |
    `anysize-train evaluate runs/a/family --text held_out.jsonl --json`
    """
    from anysize_training.study.evaluate import Evaluator
    from anysize_training.study.measure import amend, measurement, untrained_quality
    from anysize_training.study.texts import read_windows

    with errors_for_people():
        folder, loaded = _load(family)
        windows = read_windows(
            text,
            loaded.tokenizer,
            length=window,
            max_tokens=max_tokens,
            detokenise="wikitext" if wikitext else "none",
            first_row=first_row,
        )
        qualities = Evaluator(loaded.bank, windows).qualities([size.variant for size in loaded.ladder])
        measurements = tuple(measurement(size.variant, qualities[size.id], windows) for size in loaded.ladder)
        before = untrained_quality(loaded, windows) if untrained else None
        report: dict[str, Any] = {
            "family": loaded.name,
            "dataset": windows.name,
            "dataset_sha256": windows.sha256,
            "tokens": windows.scored,
            "sizes": [
                {
                    "variant": size.id,
                    "layers": size.layers,
                    "fraction": size.fraction,
                    "perplexity": qualities[size.id].perplexity,
                    "kl": qualities[size.id].kl,
                }
                for size in loaded.ladder
            ],
            "untrained_student_perplexity": before.perplexity if before else None,
        }
        if write:
            student = loaded.parse("student")
            update = {
                "measurements": measurements,
                "measurements_command": _command_line(),
                "untrained": measurement(student, before, windows) if before else None,
            }
            amend(folder, loaded, loaded.manifest.model_copy(update=update))
    if as_json:
        print_json(report)
        return
    table = Table("variant", "layers", "fraction", "perplexity", "KL", title=f"{loaded.name} on {windows.name}")
    for row in report["sizes"]:
        table.add_row(
            row["variant"], str(row["layers"]), f"{row['fraction']:.3f}", f"{row['perplexity']:.2f}", f"{row['kl']:.3f}"
        )
    terminal.print(table)
    if before:
        terminal.print(f"student before training: perplexity {before.perplexity:,.0f}", highlight=False)


@app.command()
def ladder(
    family: FamilyArgument,
    text: TextOption,
    first_row: FirstRowOption = 0,
    max_tokens: Annotated[int, typer.Option(min=64, help="Calibrate on this many tokens.")] = 1024,
    window: Annotated[int, typer.Option(min=16, help="Tokens in one window.")] = 256,
    write: WriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find, for each size, the subset of patched positions with the least KL divergence to the teacher.

    All subsets of the blocks of more than one layer are tried, then blocks of one layer for the best of each size;
    sizes that are no better than a smaller one are left out.

    Examples: `anysize-train ladder builtin --text wikipedia.jsonl --first-row 7500` |
    `anysize-train ladder runs/a/family --text held_out.jsonl --write`
    """
    from anysize_training.study.ladder import LadderSearch, falling
    from anysize_training.study.measure import amend
    from anysize_training.study.texts import read_windows

    with errors_for_people():
        folder, loaded = _load(family)
        windows = read_windows(text, loaded.tokenizer, length=window, max_tokens=max_tokens, first_row=first_row)
        rungs = falling(LadderSearch(loaded.bank, windows).best())
        if write:
            ids = tuple(rung.variant.id for rung in rungs)
            update = {
                "ladder": ids,
                "ladder_command": _command_line(),
                "measurements": (),
                "measurements_command": None,
                "untrained": None,
            }
            amend(folder, loaded, loaded.manifest.model_copy(update=update))
    if as_json:
        rows = [{"variant": rung.variant.id, "kl": rung.kl} for rung in rungs]
        print_json({"family": loaded.name, "dataset": windows.name, "ladder": rows})
        return
    table = Table(
        "variant", "layers", "KL", title=f"{loaded.name}, calibrated on {windows.scored} tokens of {windows.name}"
    )
    for rung in rungs:
        table.add_row(rung.variant.id, str(rung.variant.depth(loaded.bank.blocks)), f"{rung.kl:.4f}")
    terminal.print(table)


def _command_line() -> str:
    """The command line for a model card, without folders of this machine."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["anysize-train", *words])


def _load(family: Path) -> Any:
    import torch

    from anysize.family.family import Family, builtin_folder
    from anysize.settings import resolve_device

    folder = builtin_folder() if str(family) == "builtin" else family
    say(f"loading {folder.name}")
    return folder, Family.load(folder, dtype=torch.float32, device=resolve_device("auto"))
