"""`anysize bench latency | budgets | burst`: whether times come out as foreseen, and what that is worth."""

from typing import TYPE_CHECKING, Annotated

import typer

from anysize.bench.show import show
from anysize.commands.bench_service import bench_app
from anysize.commands.options import CompileOption, FamilyOption, JsonOption
from anysize.commands.served import served_family, served_kernels
from anysize.console import errors_for_people, progress_bar, say
from anysize.settings import Settings, load_settings

if TYPE_CHECKING:
    from anysize.engine.kernels.kernels import Kernels
    from anysize.family.family import Family
    from anysize.sizing.calibration import Calibration


@bench_app.command("latency")
def bench_latency(
    loads: Annotated[int, typer.Option(min=1, max=10_000, help="Random loads.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Of the loads.")] = 1,
    family: FamilyOption = None,
    compile_kernels: CompileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare predicted with measured times on loads that the calibration has not seen (run `anysize calibrate` first).

    Examples: `anysize bench latency` | `anysize bench latency --loads 200 --json`
    """
    from anysize.bench.latency import bench_latency as measure

    with errors_for_people():
        served, compiled, found = _calibrated(load_settings(family=family, compile=compile_kernels))
        with progress_bar("running loads") as on_progress:
            report = measure(served, found.model(), loads=loads, seed=seed, kernels=compiled, on_progress=on_progress)
    show(report, as_json=as_json)


@bench_app.command("budgets")
def bench_budgets(
    requests: Annotated[int, typer.Option(min=1, max=10_000, help="Random latency budgets.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the budgets.")] = 1,
    family: FamilyOption = None,
    compile_kernels: CompileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count how many random latency budgets are kept, and compare the sizes with an oracle's (calibrate first).

    Examples: `anysize bench budgets` | `anysize bench budgets --requests 50 --json`
    """
    from anysize.bench.budgets import bench_budgets as measure

    with errors_for_people():
        from anysize.bench.decoding import model_for
        from anysize.bench.desk import desk

        settings = load_settings(family=family, compile=compile_kernels)
        served, compiled, found = _calibrated(settings)
        model = model_for(served, requests=2, tokens=512, kernels=compiled)
        with desk(served, model, settings, found) as one, progress_bar("asking") as on_progress:
            report = measure(one, requests=requests, seed=seed, on_progress=on_progress)
    show(report, as_json=as_json)


@bench_app.command("burst")
def bench_burst(
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Of the trace, played four times.")] = 60.0,
    quiet: Annotated[float, typer.Option(min=0.01, max=100, help="Rate over capacity, between bursts.")] = 0.5,
    burst: Annotated[float, typer.Option(min=0.01, max=100, help="Rate over capacity, in a burst.")] = 1.2,
    quiet_s: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between bursts, on average.")] = 8.0,
    burst_s: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of a burst, on average.")] = 8.0,
    slack: Annotated[float, typer.Option(min=1, max=1000, help="Bounds over times of the largest size alone.")] = 4.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the trace.")] = 1,
    family: FamilyOption = None,
    compile_kernels: CompileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Play bursts on the largest size, the smallest, and sizes that follow the load, also under way (calibrate first).

    Examples: `anysize bench burst` | `anysize bench burst --burst 2 --slack 4 --json`
    """
    from anysize.bench.burst import Law
    from anysize.bench.burst import bench_burst as measure

    with errors_for_people():
        from anysize.bench.decoding import model_for
        from anysize.bench.desk import desk
        from anysize.engine.limits import Limits

        settings = load_settings(family=family, compile=compile_kernels)
        served, compiled, found = _calibrated(settings)
        report = measure(
            served,
            found.model(),
            Limits.of(settings),
            lambda: desk(
                served,
                model_for(served, requests=settings.max_running_requests, tokens=128, kernels=compiled),
                settings,
                found,
            ),
            Law(quiet, burst, quiet_s, burst_s, seconds, seed),
            slack=slack,
            say=say,
        )
    show(report, as_json=as_json)


def _calibrated(settings: Settings) -> "tuple[Family, Kernels | None, Calibration]":
    """What is served, and its calibration on this machine."""
    served, compiled = served_family(settings), served_kernels(settings)
    from anysize.sizing.calibration import Key, required_calibration

    return served, compiled, required_calibration(Key.of(settings, compiled=compiled is not None), served)
