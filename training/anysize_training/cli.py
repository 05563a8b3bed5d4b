"""The command line: `anysize-train init | plan | distill | evaluate | ladder | order | bench`."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from anysize.console import errors_for_people
from anysize_training.distill.selection.selection import Method
from anysize_training.study.order.method import Method as OrderMethod

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
Kind = Literal["full", "delta"]


@app.callback()
def _main() -> None:
    """Make students, and measure what they are worth."""


@app.command()
def init(
    teacher: Annotated[str, typer.Argument(help="builtin:smollm2-135m, a checkpoint folder, or a hub model's name.")],
    text: TextOption,
    layers: Annotated[int, typer.Option(min=1, help="Student layers, M.")],
    method: Annotated[Method, typer.Option(help="How they are chosen.")] = "kl",
    compare: Annotated[bool, typer.Option("--compare", help="All methods side by side.")] = False,
    longest_block: Annotated[int, typer.Option(min=1, help="Most layers that one student layer stands for.")] = 5,
    first_row: FirstRowOption = 0,
    max_tokens: Annotated[int, typer.Option(min=64, help="Calibrate on this many tokens, score on the next.")] = 768,
    window: Annotated[int, typer.Option(min=16, help="Tokens in one window.")] = 128,
    plot: Annotated[Path | None, typer.Option(help="Write a picture, .png or .svg.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the kept layers before any training, and print lines for the recipe.

    `kl` drops the layers that are missed least, by the pruned teacher's KL divergence; `similarity` keeps first and
    last layer of each block alike (paper, E.2); `block_influence` drops the layers that change their input least
    (ShortGPT); `every_nth` is the paper's rule, and knows no longest block. KL in the table is of the pruned teacher
    on tokens that the methods did not see.

    Examples: `anysize-train init builtin:smollm2-135m --layers 11 --text wikipedia.jsonl --first-row 7500` |
    `anysize-train init builtin:smollm2-135m --layers 16 --text wikipedia.jsonl --compare --plot kept.png`
    """
    from anysize_training.commands.init import choose_layers

    with errors_for_people():
        choose_layers(
            teacher,
            text,
            get_args(Method) if compare else [method],
            layers=layers,
            longest_block=longest_block,
            first_row=first_row,
            max_tokens=max_tokens,
            window=window,
            plot=plot,
            as_json=as_json,
        )


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a YAML file.")],
    processes: Annotated[int, typer.Option(min=1, max=1 << 16, help="Devices, one process each.")] = 1,
    override: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which sizes a recipe makes and what it costs, without reading weights.

    Examples: `anysize-train plan paper-qwen3-4b --processes 4` |
    `anysize-train plan my.yaml --set run.steps=100 --json`
    """
    from anysize_training.commands.plan import plan_recipe

    with errors_for_people():
        plan_recipe(recipe, override or [], processes=processes, as_json=as_json)


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
    from anysize_training.commands.distill import run_distillation

    with errors_for_people():
        finished = run_distillation(recipe, out, override or [], resume=resume)
    if not finished:
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
    int8: Annotated[bool, typer.Option("--int8", help="Also score each size with weights rounded to int8.")] = False,
    write: WriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure perplexity, and KL divergence to the teacher, of every size of the ladder.

    Examples: `anysize-train evaluate builtin --text wikitext2_test.txt --wikitext --untrained` |
    `anysize-train evaluate runs/a/family --text held_out.jsonl --json`
    """
    from anysize_training.commands.evaluate import evaluate_family

    with errors_for_people():
        evaluate_family(
            family,
            text,
            first_row=first_row,
            max_tokens=max_tokens,
            window=window,
            wikitext=wikitext,
            untrained=untrained,
            int8=int8,
            write=write,
            as_json=as_json,
        )


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
    from anysize_training.commands.ladder import find_ladder

    with errors_for_people():
        find_ladder(
            family,
            text,
            first_row=first_row,
            max_tokens=max_tokens,
            window=window,
            write=write,
            as_json=as_json,
        )


@app.command()
def order(
    family: FamilyArgument,
    text: TextOption,
    method: Annotated[OrderMethod, typer.Option(help="How the order is found.")] = "kl_greedy",
    compare: Annotated[bool, typer.Option("--compare", help="All methods side by side.")] = False,
    first_row: FirstRowOption = 0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "--tokens", min=64, help="Calibrate on this many.")] = 2048,
    window: Annotated[int, typer.Option(min=16, help="Tokens in one window.")] = 256,
    evaluate_text: Annotated[
        Path | None, typer.Option(help="Also score on this .txt or .jsonl file.", exists=True, dir_okay=False)
    ] = None,
    evaluate_tokens: Annotated[int, typer.Option(min=64, help="Score at most this many tokens of it.")] = 4096,
    evaluate_window: Annotated[int, typer.Option(min=16, help="Tokens of it in one window.")] = 512,
    wikitext: Annotated[
        bool, typer.Option("--wikitext", help="Undo WikiText's word tokenisation of it first.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Report, a .json file; scores beside it are taken up again.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture, .png or .svg.")] = None,
    write: WriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the order in which positions are best patched, by KL divergence to the teacher on a text.

    `kl_greedy` patches next what brings the variant nearest to the teacher (KLPatch); `exact` measures all 2^M subsets
    of at most 12 positions and finds the best order and, beside it, the best subset of each size; `cosine_low_first`
    and `cosine_high_first` go by how alike student layers and their blocks are; the others are the paper's.

    Examples: `anysize-train order builtin --text wikipedia.jsonl --first-row 7500 --out order.json` |
    `anysize-train order runs/a/family --text held_out.jsonl --compare --plot orders.png --write`
    """
    from anysize_training.commands.order import Text, find_order

    with errors_for_people():
        find_order(
            family,
            Text(text, first_row, max_tokens, window),
            method,
            compare=compare,
            evaluation=Text(evaluate_text, 0, evaluate_tokens, evaluate_window, wikitext) if evaluate_text else None,
            out=out,
            plot=plot,
            write=write,
            as_json=as_json,
        )


@app.command()
def bench(
    kind: Annotated[Kind, typer.Option(help="Of the student.")] = "full",
    rows: Annotated[int, typer.Option(min=1, max=1024, help="Rows in one optimizer step.")] = 4,
    sequence_length: Annotated[int, typer.Option(min=16, max=1 << 16, help="Tokens of a row.")] = 512,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Timed steps.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Runs of each contender.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Compare tokens per second and peak memory with a plain Trainer subclass that does the same densely.

    Examples: `anysize-train bench` | `anysize-train bench --kind delta --rounds 3 --json`
    """
    from anysize_training.bench.workload import Workload
    from anysize_training.commands.bench import bench_training

    with errors_for_people():
        workload = Workload(kind=kind, rows=rows, sequence_length=sequence_length, steps=steps)
        bench_training(workload, rounds=rounds, as_json=as_json)
