"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated, Literal

import typer

FamilyArgument = Annotated[Path, typer.Argument(help="Family folder; `builtin` is the one that ships.")]
TextOption = Annotated[Path, typer.Option("--text", help="A .txt or .jsonl file.", exists=True, dir_okay=False)]
OptionalTextOption = Annotated[
    Path | None, typer.Option("--text", help="A .txt or .jsonl file.", exists=True, dir_okay=False)
]
WikitextOption = Annotated[bool, typer.Option("--wikitext", help="Undo WikiText's word tokenisation first.")]
OutOption = Annotated[
    Path | None, typer.Option(help="A .json file: what is measured is kept in it, and not measured again.")
]
FirstRowOption = Annotated[int, typer.Option(min=0, help="Of a .jsonl file, the first row that is read.")]
WriteOption = Annotated[bool, typer.Option("--write", help="Write the result into the family folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a value: dotted.name=value.")]
PlotOption = Annotated[Path | None, typer.Option(help="Write a picture, .png or .svg.")]
ReportOption = Annotated[Path | None, typer.Option(help="Write the report as JSON into this file.")]
EvaluateTextOption = Annotated[
    Path | None, typer.Option(help="A .txt or .jsonl file to score on.", exists=True, dir_okay=False)
]
EvaluateTokensOption = Annotated[int, typer.Option(min=64, help="Score at most this many tokens of it.")]
EvaluateWindowOption = Annotated[int, typer.Option(min=16, help="Tokens of it in one window.")]
EvaluateWikitextOption = Annotated[
    bool, typer.Option("--wikitext", help="Undo WikiText's word tokenisation of it first.")
]
Kind = Literal["full", "delta"]
