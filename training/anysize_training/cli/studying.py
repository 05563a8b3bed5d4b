"""Commands that measure families and choose their sizes: `evaluate`, `patch`, `patch-images`, `ladder`, `order`."""

from pathlib import Path
from typing import Annotated

import typer

from anysize.console import errors_for_people
from anysize.family.order import OrderName
from anysize_training.cli.options import (
    FamilyArgument,
    FirstRowOption,
    JsonOption,
    OptionalTextOption,
    OutOption,
    PlotOption,
    TextOption,
    WikitextOption,
    WriteOption,
)
from anysize_training.study.order.method import Method as OrderMethod

# Of the six layers of DistilBERT and DistilGPT2.
_DISTILLED = "0,2,4,7,9,11"


def evaluate(
    family: FamilyArgument,
    text: OptionalTextOption = None,
    first_row: FirstRowOption = 0,
    max_tokens: Annotated[int, typer.Option(min=64, help="Score at most this many tokens.")] = 16384,
    window: Annotated[int, typer.Option(min=16, help="Tokens scored in one window.")] = 512,
    wikitext: WikitextOption = False,
    words: Annotated[bool, typer.Option("--words", help="Also word perplexity, of whole documents.")] = False,
    max_pages: Annotated[int | None, typer.Option(min=1, help="Of documents, only the first so many.")] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Also score the student before training.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Also score each size with weights rounded to int8.")] = False,
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="Tasks of lm-evaluation-harness, commas between; `paper`, the paper's, without --text."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first so many examples of a task.")] = None,
    include_path: Annotated[
        Path | None, typer.Option(help="A folder of task definitions of your own; trusted as a program is.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences of a task at once.")] = 8,
    context: Annotated[
        int | None, typer.Option(min=2, help="Longest sequence of documents and tasks; the teacher's by default.")
    ] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Only these sizes; may be repeated.")] = None,
    out: OutOption = None,
    write: WriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure what every size of the ladder is worth: on text, in tasks, or both; or what a single checkpoint is.

    Perplexity, and KL divergence to the teacher, of the tokens of a text in windows. `--words` adds perplexity by the
    word as the `wikitext` task of lm-evaluation-harness has it. `--tasks paper` (or `paper-classification`,
    `paper-generation`, or any names) runs its tasks; without --text the paper's are the default. The harness comes with
    `anysize[eval]`.

    Examples: `anysize-train evaluate builtin --text wikitext2_test.txt --wikitext --words --untrained` |
    `anysize-train evaluate runs/a/family --text held_out.jsonl --variant student --variant teacher --json` |
    `anysize-train evaluate runs/a/family --tasks paper --limit 100 --out report.json`
    """
    from anysize_training.commands.evaluate import TaskChoice, TextChoice, evaluate_family

    names = tasks or ([] if text else ["paper"])
    with errors_for_people():
        evaluate_family(
            family,
            text=TextChoice(
                path=text,
                first_row=first_row,
                max_tokens=max_tokens,
                window=window,
                wikitext=wikitext,
                words=words,
                max_pages=max_pages,
                untrained=untrained,
                int8=int8,
            )
            if text
            else None,
            tasks=TaskChoice(names=names, limit=limit, include=include_path, batch=batch) if names else None,
            variants=variant or [],
            context=context,
            out=out,
            write=write,
            as_json=as_json,
        )


def patch(
    teacher: Annotated[str, typer.Argument(help="A checkpoint folder, or a hub model's name.")],
    student: Annotated[str, typer.Argument(help="Likewise; distilled from the teacher by others.")],
    text: TextOption,
    kept: Annotated[str, typer.Option(help="The teacher layers that the student's were copied from.")] = _DISTILLED,
    fit_text: Annotated[
        Path | None,
        typer.Option(help="Causal models of other widths or heads: fit maps on this.", exists=True, dir_okay=False),
    ] = None,
    fit_tokens: Annotated[int, typer.Option(min=64, help="Fit maps on this many tokens.")] = 16384,
    patch_order: Annotated[OrderName, typer.Option(help="Which positions are patched first.")] = "last_to_first",
    first_row: FirstRowOption = 0,
    max_tokens: Annotated[int, typer.Option(min=64, help="Score at most this many tokens.")] = 4096,
    window: Annotated[int, typer.Option(min=16, help="Tokens scored in one window.")] = 128,
    wikitext: WikitextOption = False,
    pruned: Annotated[bool, typer.Option("--pruned", help="Also score the teacher pruned to each size.")] = False,
    out: OutOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Patch a student that others distilled with its teacher, and measure every size (paper, 3.4).

    By perplexity, or for BERT and DistilBERT by pseudo-perplexity, each token masked by itself. Student layer i stands
    for the teacher layers from its own kept one up to the next.

    With --fit-text the student may be of another width, or have other heads: linear maps between the hidden states of
    both are fitted by least squares on that text, and stand wherever a student layer and a teacher layer meet. Both
    must have one tokenizer.

    Examples: `anysize-train patch openai-community/gpt2 distilbert/distilgpt2 --text wikitext2_test.txt --wikitext` |
    `anysize-train patch bert-base-uncased distilbert-base-uncased --text wikitext2_test.txt --wikitext --pruned` |
    `anysize-train patch runs/wide runs/narrow --kept 0,2,4,6 --text held-out.txt --fit-text wikipedia.jsonl`
    """
    from anysize_training.commands.patch import patch_pair
    from anysize_training.study.texts import Text

    with errors_for_people():
        patch_pair(
            teacher,
            student,
            Text(text, first_row, max_tokens, window, wikitext),
            fit=Text(fit_text, 0, fit_tokens, window) if fit_text else None,
            kept=kept,
            patch_order=patch_order,
            pruned=pruned,
            out=out,
            plot=plot,
            as_json=as_json,
        )


def patch_images(
    teacher: Annotated[str, typer.Argument(help="A ViT's checkpoint folder, or a hub model's name.")],
    student: Annotated[str, typer.Argument(help="Likewise; distilled from the teacher by others.")],
    images: Annotated[
        Path,
        typer.Argument(help="A folder with one folder a class, named like its label.", exists=True, file_okay=False),
    ],
    kept: Annotated[str, typer.Option(help="The teacher layers that the student's were copied from.")] = _DISTILLED,
    patch_order: Annotated[OrderName, typer.Option(help="Which positions are patched first.")] = "last_to_first",
    max_images: Annotated[int, typer.Option(min=1, max=100_000, help="Read at most this many.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Images at once.")] = 32,
    pruned: Annotated[bool, typer.Option("--pruned", help="Also score the teacher pruned to each size.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Patch an image classifier (ViT) that others distilled with its teacher, and measure every size.

    By cross entropy and accuracy on labelled images, and by how often a size says what the teacher says.

    Examples: `anysize-train patch-images runs/vit-12 runs/vit-6 photos --kept 0,2,4,6,8,10 --pruned`
    """
    from anysize_training.commands.patch_images import patch_images as measure

    with errors_for_people():
        measure(
            teacher,
            student,
            images,
            kept=kept,
            patch_order=patch_order,
            most=max_images,
            batch=batch,
            pruned=pruned,
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
    from anysize_training.study.texts import Text

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
