"""Commands that measure families and choose their sizes: `evaluate`, `ladder`, `order`, `sweep`."""

from pathlib import Path
from typing import Annotated

import typer

from anysize.console import errors_for_people
from anysize_training.cli.options import (
    FamilyArgument,
    FirstRowOption,
    JsonOption,
    PlotOption,
    SetOption,
    TextOption,
    WriteOption,
)
from anysize_training.study.order.method import Method as OrderMethod


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
    plot: PlotOption = None,
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
    from anysize_training.commands.order import find_order
    from anysize_training.commands.text import Text

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


def sweep(
    sweep: Annotated[str, typer.Argument(help="A shipped sweep's name, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs, shared by sweeps; the report is OUT/NAME.json.")],
    text: TextOption,
    first_row: FirstRowOption = 0,
    max_tokens: Annotated[int, typer.Option(min=64, help="Score at most this many tokens.")] = 4096,
    window: Annotated[int, typer.Option(min=16, help="Tokens scored in one window.")] = 128,
    wikitext: Annotated[bool, typer.Option("--wikitext", help="Undo WikiText's word tokenisation first.")] = False,
    override: SetOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Distil the same student with one thing changed at a time, over seeds, and compare all sizes.

    A run that is there is not run again, nor one that stands in another sweep of the same folder; what was stopped goes
    on. Shipped: `loss-ablation` (paper, Figure 5), `random-initialisation`, `student-size` (Figure 8), `token-budget`
    (Figure 10), `initialisation-and-order` (Figure 24), `standard-distillation` (Figure 4), `delta-against-full`.

    Examples: `anysize-train sweep loss-ablation --out runs/sweeps --text held_out.jsonl --set teacher=runs/teacher` |
    `anysize-train sweep my-sweep.yaml --out runs/mine --text wikitext2_test.txt --wikitext --plot mine.png`
    """
    from anysize_training.commands.sweep import run_sweep
    from anysize_training.study.sweep.runs import Text

    with errors_for_people():
        scored = Text(text, first_row, max_tokens, window, wikitext)
        finished = run_sweep(sweep, out, scored, override or [], plot=plot, as_json=as_json)
    if not finished:
        raise typer.Exit(130)
