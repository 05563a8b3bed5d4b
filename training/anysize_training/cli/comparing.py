"""Commands that compare and look inside: `baseline`, `analyse`."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from anysize.console import errors_for_people
from anysize_training.cli.options import (
    EvaluateTextOption,
    EvaluateTokensOption,
    EvaluateWikitextOption,
    EvaluateWindowOption,
    FamilyArgument,
    FirstRowOption,
    JsonOption,
    PlotOption,
    ReportOption,
    WikitextOption,
)
from anysize_training.study.analyse.what import What
from anysize_training.study.baselines.method import Method

BaselineName = Literal["naive", "shortgpt", "laco", "untrained"]


def baseline(
    teacher: Annotated[str, typer.Argument(help="builtin:smollm2-135m, a checkpoint folder, or a hub model's name.")],
    method: Annotated[BaselineName, typer.Option(help="How the teacher is made smaller.")] = "naive",
    shortgpt: Annotated[Literal["once", "rescored"], typer.Option(help="When layers are ranked.")] = "once",
    laco: Annotated[Literal["equation", "official"], typer.Option(help="How layers are merged.")] = "equation",
    compare: Annotated[bool, typer.Option("--compare", help="All of them side by side.")] = False,
    layers: Annotated[str | None, typer.Option(help="Depths to reach, such as 11,14,20.")] = None,
    depths_of: Annotated[Path | None, typer.Option(help="A family whose depths are reached; --against's else.")] = None,
    against: Annotated[Path | None, typer.Option(help="A family to score beside; `builtin` is one.")] = None,
    text: Annotated[
        Path | None, typer.Option(help="A .txt or .jsonl file to calibrate on.", exists=True, dir_okay=False)
    ] = None,
    first_row: FirstRowOption = 0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "--tokens", min=16, help="Calibrate on this many.")] = 2048,
    window: Annotated[int, typer.Option(min=16, help="Tokens in one window, which is one text to LaCo.")] = 128,
    grid: Annotated[bool, typer.Option(help="LaCo: every C and T of the paper's Table 4.")] = False,
    merged: Annotated[int, typer.Option(min=2, help="LaCo: C, unless --grid.")] = 3,
    threshold: Annotated[float, typer.Option(min=-1, max=1, help="LaCo: T, unless --grid.")] = 0.65,
    evaluate_text: EvaluateTextOption = None,
    evaluate_tokens: EvaluateTokensOption = 4096,
    evaluate_window: EvaluateWindowOption = 512,
    wikitext: EvaluateWikitextOption = False,
    save: Annotated[Path | None, typer.Option(help="Write each model as a checkpoint into this folder.")] = None,
    out: ReportOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prune or merge the teacher without training, and score what comes out beside a family's sizes.

    `naive` drops the second layer and then every other; `shortgpt` those that change their input least, ranked `once`
    or `rescored` after each removal; `laco` merges runs of layers, by the paper's Equation 4 (`equation`: C layers go
    into one) or as the published notebooks do (`official`: C - 1 go, and the last one's linear maps stay); `untrained`
    is the family of --against with the teacher's layers in the place of the student's. LaCo knows no depth to reach:
    the model most like the teacher among those that its runs had and that are deep enough at most is taken.

    Examples: `anysize-train baseline builtin:smollm2-135m --method naive --layers 16,20 --save pruned` |
    `anysize-train baseline builtin:smollm2-135m --compare --grid --against builtin --text wikipedia.jsonl
    --evaluate-text wikitext2_test.txt --wikitext --plot baselines.png`
    """
    from anysize_training.commands.baseline import make_baselines
    from anysize_training.study.baselines.laco import table_4
    from anysize_training.study.texts import Text

    methods: list[Method] = [one for one in get_args(Method) if against is not None or one != "untrained"]
    if not compare:
        wanted = {"shortgpt": f"shortgpt_{shortgpt}", "laco": f"laco_{laco}"}.get(method, method)
        methods = [one for one in get_args(Method) if one == wanted]
    with errors_for_people():
        make_baselines(
            teacher,
            methods,
            layers=_depths(layers),
            depths_of=depths_of,
            against=against,
            calibration=Text(text, first_row, max_tokens, window) if text else None,
            evaluation=Text(evaluate_text, 0, evaluate_tokens, evaluate_window, wikitext) if evaluate_text else None,
            laco_runs=table_4() if grid else [(merged, threshold)],
            save=save,
            out=out,
            plot=plot,
            as_json=as_json,
        )


def analyse(
    family: FamilyArgument,
    what: Annotated[What, typer.Option(help="Which analysis.")] = "student_layers",
    text: Annotated[
        Path | None, typer.Option(help="A .txt or .jsonl file to measure on.", exists=True, dir_okay=False)
    ] = None,
    first_row: FirstRowOption = 0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "--tokens", min=16, help="Measure on this many.")] = 4096,
    window: Annotated[int, typer.Option(min=16, help="Tokens in one window.")] = 256,
    wikitext: WikitextOption = False,
    out: ReportOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look inside a family.

    `teacher_layers`: how alike the outputs of every two teacher layers are; `student_layers`: of every student layer
    and every teacher layer (paper, Figures 23, 25, 26); `last_layer`: of the last layer and the teacher's, the more
    positions are patched (Figure 27); `flops`: what sizes cost to run and to distil (Table 3), in closed form and as
    torch counts, which needs no text.

    Examples: `anysize-train analyse builtin --text wikipedia.jsonl --first-row 7500 --plot layers.png` |
    `anysize-train analyse builtin --what flops --json`
    """
    from anysize_training.commands.analyse import analyse_family
    from anysize_training.study.texts import Text

    with errors_for_people():
        analyse_family(
            family,
            what,
            Text(text, first_row, max_tokens, window, wikitext) if text else None,
            out=out,
            plot=plot,
            as_json=as_json,
        )


def _depths(layers: str | None) -> list[int]:
    try:
        return [int(word) for word in layers.split(",")] if layers else []
    except ValueError:
        raise typer.BadParameter(f"{layers} is no list of depths, such as 11,14,20", param_hint="--layers") from None
