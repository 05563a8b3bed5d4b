"""Commands that make students: `init`, `plan`, `distill`, `untrained`, `bench`."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from anysize.console import errors_for_people
from anysize_training.cli.options import FirstRowOption, JsonOption, Kind, PlotOption, SetOption, TextOption
from anysize_training.distill.selection.selection import Method


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
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose the kept layers before any training, and print lines for the recipe.

    `kl` drops the layers that are missed least, by the pruned teacher's KL divergence; `similarity` keeps first and
    last layer of each block alike (paper, E.2); `block_influence` drops the layers that change their input least
    (ShortGPT); `every_nth` is the paper's rule, and knows no longest block. KL in the table is of the pruned teacher
    on tokens that the methods did not see; beside it, that of the same blocks each merged into its first layer (LaCo),
    which a recipe's `student.weights: merged` starts from.

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


def untrained(
    out: Annotated[Path, typer.Argument(help="Folder to make; it must not exist.")],
    text: TextOption,
    layers: Annotated[int, typer.Option(min=2, max=1024, help="Decoder layers.")] = 12,
    width: Annotated[int, typer.Option(min=8, max=1 << 16, help="Of a hidden state.")] = 256,
    heads: Annotated[int, typer.Option(min=1, max=1024, help="Of attention.")] = 4,
    feed_forward: Annotated[int, typer.Option(min=8, max=1 << 18, help="Width inside an MLP.")] = 688,
    vocabulary: Annotated[int, typer.Option(min=258, max=1 << 20, help="Tokens, learnt on the text.")] = 4096,
    context: Annotated[int, typer.Option(min=16, max=1 << 20, help="The most tokens of a sequence.")] = 512,
    rows: Annotated[int | None, typer.Option(min=1, help="Of the text, the first that are used.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Of the weights.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write a small Llama with random weights and a tokenizer learnt on a text, to be trained from scratch.

    The recipe `scratch` trains it with the same pipeline that distils; its family's student is the trained model.

    Examples: `anysize-train untrained runs/untrained --text wikipedia.jsonl` |
    `anysize-train untrained runs/small --text wikipedia.jsonl --layers 8 --width 128 --feed-forward 344 --seed 1`
    """
    from anysize_training.commands.untrained import make_untrained
    from anysize_training.distill.untrained import Shape

    with errors_for_people():
        shape = Shape(
            layers=layers,
            width=width,
            heads=heads,
            feed_forward=feed_forward,
            vocabulary=vocabulary,
            context=context,
        )
        make_untrained(out, text, shape, rows=rows, seed=seed, as_json=as_json)


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
