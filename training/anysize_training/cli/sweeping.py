"""Commands that carry out many runs: `sweep`, `report`."""

from pathlib import Path
from typing import Annotated

import typer

from anysize.console import errors_for_people
from anysize_training.cli.options import (
    EvaluateWikitextOption,
    FirstRowOption,
    JsonOption,
    PlotOption,
    SetOption,
    TextOption,
    WikitextOption,
)


def sweep(
    sweep: Annotated[str, typer.Argument(help="A shipped sweep's name, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs, shared by sweeps; the report is OUT/NAME.json.")],
    text: TextOption,
    first_row: FirstRowOption = 0,
    max_tokens: Annotated[int, typer.Option(min=64, help="Score at most this many tokens.")] = 4096,
    window: Annotated[int, typer.Option(min=16, help="Tokens scored in one window.")] = 128,
    wikitext: WikitextOption = False,
    override: SetOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Distil the same student with one thing changed at a time, over seeds, and compare all sizes.

    A run that is there is not run again, nor one that stands in another sweep of the same folder; what was stopped goes
    on. Shipped: `loss-ablation` (paper, Figure 5), `random-initialisation`, `student-size` (Figure 8), `token-budget`
    (Figure 10), `initialisation-and-order` (Figure 24), `standard-distillation` (Figure 4), `delta-against-full`,
    `initialisations` (which layers a student starts from; with ShortGPT's choice and LaCo's merging).

    Examples: `anysize-train sweep loss-ablation --out runs/sweeps --text held_out.jsonl --set teacher=runs/teacher` |
    `anysize-train sweep my-sweep.yaml --out runs/mine --text wikitext2_test.txt --wikitext --plot mine.png`
    """
    from anysize_training.commands.sweep import run_sweep
    from anysize_training.study.texts import Text

    with errors_for_people():
        scored = Text(text, first_row, max_tokens, window, wikitext)
        finished = run_sweep(sweep, out, scored, override or [], plot=plot, as_json=as_json)
    if not finished:
        raise typer.Exit(130)


def report(
    family: Annotated[str, typer.Argument(help="Family folder; `builtin` is the one that ships.")],
    text: Annotated[
        Path | None,
        typer.Option(
            help="A .txt or .jsonl file to calibrate on; by default wikipedia_vital_en.jsonl, from row 7500 on.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    evaluate_text: Annotated[
        Path | None,
        typer.Option(
            help="A .txt or .jsonl file to score on; by default wikitext2_test.txt, with --wikitext.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the pages; what lies there is not measured again.")] = Path(
        "report"
    ),
    first_row: Annotated[int | None, typer.Option(min=0, help="Of a .jsonl file, the first row that is read.")] = None,
    wikitext: EvaluateWikitextOption = False,
    sweeps: Annotated[
        Path | None, typer.Option(help="A folder that `anysize-train sweep` has written.", exists=True, file_okay=False)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Score and calibrate on less.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the paper's experiments on a family, and write one page that says of each claim whether it holds.

    Each experiment is an `anysize-train` command, named beside its result. Those that train are read from --sweeps, or
    stay as they are in --out. Texts that are not named are looked for in the current folder; training/README.md says
    where they come from.

    Examples: `anysize-train report smollm2-135m --quick` |
    `anysize-train report runs/a/family --text a.txt --evaluate-text b.txt --out r --sweeps runs/sweeps`
    """
    from anysize_training.commands.report import report_family
    from anysize_training.study.report.texts import Texts

    with errors_for_people():
        report_family(
            family,
            texts=Texts.named(text, first_row, evaluate_text, wikitext),
            out=out,
            sweeps=sweeps,
            quick=quick,
            as_json=as_json,
        )
