"""`anysize bench`: what the engine does in this process."""

from pathlib import Path
from typing import Annotated

import typer

from anysize.bench.show import show
from anysize.commands.options import CompileOption, FamilyOption, JsonOption, SizeOption
from anysize.commands.served import served_family, served_kernels
from anysize.console import errors_for_people, say
from anysize.settings import load_settings

bench_app = typer.Typer(help="Measure this machine. Every ratio is of two figures from one run.", no_args_is_help=True)

PromptTokensOption = Annotated[int, typer.Option(min=1, max=4096, help="Tokens of each prompt.")]
AnswerTokensOption = Annotated[int, typer.Option(min=2, max=4096, help="Tokens of each answer.")]
MedianRoundsOption = Annotated[
    int, typer.Option("--rounds", min=1, max=100, help="Rounds that count; the figures are medians.")
]
AgainstOption = Annotated[
    list[str] | None,
    typer.Option("--against", help="Contenders; may be repeated, or hold a list with commas."),
]
VllmPythonOption = Annotated[
    Path | None, typer.Option(envvar="ANYSIZE_VLLM_PYTHON", help="Python of an environment that has vLLM.")
]
LlamacppPythonOption = Annotated[
    Path | None,
    typer.Option(envvar="ANYSIZE_LLAMACPP_PYTHON", help="Python of an environment that has llama-cpp-python."),
]
GgufOption = Annotated[
    Path | None, typer.Option(envvar="ANYSIZE_GGUF", help="The teacher as a GGUF file, for llama.cpp.")
]
PlotOption = Annotated[Path | None, typer.Option(help="Draw the report into this file, such as bench.png.")]


@bench_app.command("build")
def bench_build(
    rounds: Annotated[int, typer.Option(min=3, max=1000, help="Assemblies of each size.")] = 20,
    family: FamilyOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time the assembly of every served size, and count the weight bytes it adds.

    Examples: `anysize bench build` | `anysize bench build --rounds 100 --json`
    """
    from anysize.bench.build import bench_build as measure

    with errors_for_people():
        report = measure(served_family(load_settings(family=family)), rounds)
    show(report, as_json=as_json, plot=plot)


@bench_app.command("memory")
def bench_memory(family: FamilyOption = None, plot: PlotOption = None, as_json: JsonOption = False) -> None:
    """Compare the service's resident memory after a request to every size with that after one to the teacher.

    Examples: `anysize bench memory` | `anysize bench memory --family runs/tiny/family --json`
    """
    from anysize.bench.memory import bench_memory as measure

    with errors_for_people():
        report = measure(family)
    show(report, as_json=as_json, plot=plot)


@bench_app.command("mixed")
def bench_mixed(
    requests: Annotated[int, typer.Option(min=1, max=256, help="Requests in the batch.")] = 16,
    sizes: Annotated[int, typer.Option(min=1, max=256, help="Sizes that they ask for.")] = 8,
    prompt_tokens: PromptTokensOption = 32,
    answer_tokens: AnswerTokensOption = 64,
    rounds: MedianRoundsOption = 3,
    family: FamilyOption = None,
    compile_kernels: CompileOption = None,
    against: AgainstOption = None,
    vllm_python: VllmPythonOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer requests of many sizes in one batch; compare with one size alone and with contenders.

    These are per-size-queues (the same engine, one size after another), transformers (batched `generate`, one size
    after another), processes (one a size, all at once), uncompiled and int8 (the same engine without compiled kernels,
    or with such weights), and vllm (exported sizes, one after another). The first three are the default.

    Examples: `anysize bench mixed` | `anysize bench mixed --sizes 4 --against transformers,vllm --plot mixed.png`
    """
    from anysize.bench.contenders import MIXED, MIXED_DEFAULT, Places, parse_against
    from anysize.bench.mixed import bench_mixed as measure

    with errors_for_people():
        names = parse_against(against, MIXED, MIXED_DEFAULT)
        settings = load_settings(family=family, compile=compile_kernels)
        report = measure(
            served_family(settings),
            requests=requests,
            sizes=sizes,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            rounds=rounds,
            against=names,
            places=Places(family=settings.family, vllm_python=vllm_python),
            kernels=served_kernels(settings),
            say=say,
        )
    show(report, as_json=as_json, plot=plot)


@bench_app.command("prefix")
def bench_prefix(
    pairs: Annotated[int, typer.Option(min=1, max=64, help="Pairs of sizes.")] = 5,
    prompt_tokens: PromptTokensOption = 512,
    answer_tokens: AnswerTokensOption = 16,
    rounds: MedianRoundsOption = 3,
    family: FamilyOption = None,
    compile_kernels: CompileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time to first token of a prompt that another size has run before, against a prompt that is new.

    Examples: `anysize bench prefix` | `anysize bench prefix --pairs 10 --prompt-tokens 1024 --json`
    """
    from anysize.bench.prefix import bench_prefix as measure

    with errors_for_people():
        settings = load_settings(family=family, compile=compile_kernels)
        report = measure(
            served_family(settings),
            pairs=pairs,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            rounds=rounds,
            kernels=served_kernels(settings),
        )
    show(report, as_json=as_json)


@bench_app.command("single")
def bench_single(
    size: SizeOption = "teacher",
    batch: Annotated[list[int] | None, typer.Option(min=1, max=256, help="Requests at once; may be repeated.")] = None,
    prompt_tokens: PromptTokensOption = 32,
    answer_tokens: AnswerTokensOption = 64,
    rounds: MedianRoundsOption = 3,
    family: FamilyOption = None,
    compile_kernels: CompileOption = None,
    against: AgainstOption = None,
    vllm_python: VllmPythonOption = None,
    llamacpp_python: LlamacppPythonOption = None,
    gguf: GgufOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer batches of 1, 4 and 16 requests of one size; compare with contenders.

    These are transformers (the default), uncompiled and int8 (the same engine without compiled kernels, or with such
    weights), vllm (the exported size) and llamacpp (the quantized teacher, batch 1 only).

    Examples: `anysize bench single` | `anysize bench single --size 0.7 --batch 1 --batch 8 --against vllm --json`
    """
    from anysize.bench.contenders import SINGLE, SINGLE_DEFAULT, Places, parse_against
    from anysize.bench.single import bench_single as measure
    from anysize.sizing.budget import find_size

    with errors_for_people():
        names = parse_against(against, SINGLE, SINGLE_DEFAULT)
        settings = load_settings(family=family, compile=compile_kernels)
        served = served_family(settings)
        report = measure(
            served,
            find_size(served, size),
            batches=batch or [1, 4, 16],
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            rounds=rounds,
            against=names,
            places=Places(family=settings.family, vllm_python=vllm_python, llamacpp_python=llamacpp_python, gguf=gguf),
            kernels=served_kernels(settings),
            say=say,
        )
    show(report, as_json=as_json, plot=plot)
