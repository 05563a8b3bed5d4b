"""`anysize bench http | load`: what a service takes, seen from outside."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anysize.bench.show import show
from anysize.commands.bench import bench_app
from anysize.commands.options import FamilyOption, JsonOption
from anysize.commands.served import served_family, served_kernels
from anysize.console import errors_for_people, say
from anysize.settings import Settings, load_settings

if TYPE_CHECKING:
    from anysize.bench.cores import Cores
    from anysize.family.family import Family

# The service that is measured is asked by its own clients alone.
_DOORS = ("api_keys", "api_keys_file", "rate_limit", "admin_port")

SharedOption = Annotated[
    bool, typer.Option("--share-cores", help="Let the clients use the service's cores, instead of the last one alone.")
]


@bench_app.command("http")
def bench_http(
    requests: Annotated[int, typer.Option(min=1, max=256, help="Requests at once.")] = 16,
    sizes: Annotated[int, typer.Option(min=1, max=256, help="Sizes that they ask for.")] = 8,
    answer_tokens: Annotated[int, typer.Option(min=2, max=4096, help="Tokens of each answer.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds that count; the figures are medians.")] = 3,
    family: FamilyOption = None,
    share_cores: SharedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the engine asked directly with the same requests streamed from a service in another process.

    Examples: `anysize bench http` | `anysize bench http --requests 32 --share-cores --json`
    """
    with errors_for_people():
        settings, cores, served = _prepare(family, share_cores, max_running_requests=requests)
        from anysize.bench.http import bench_http as measure

        report = measure(
            served,
            settings,
            cores,
            requests=requests,
            sizes=sizes,
            answer_tokens=answer_tokens,
            rounds=rounds,
            kernels=served_kernels(settings),
            say=say,
        )
    show(report, as_json=as_json)


@bench_app.command("load")
def bench_load(
    times: Annotated[float, typer.Option(min=0.1, max=100, help="Times its capacity the service is asked for.")] = 4.0,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="That count, in each part.")] = 60.0,
    warm_s: Annotated[float, typer.Option(min=0, max=600, help="Seconds before these, in each part.")] = 15.0,
    sizes: Annotated[int, typer.Option(min=1, max=256, help="Sizes that requests ask for.")] = 8,
    answer_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Tokens of an answer, on average.")] = 32,
    family: FamilyOption = None,
    share_cores: SharedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the capacity of a service, ask it for several times as much, and see what it answers and how it refuses.

    Examples: `anysize bench load` | `anysize bench load --times 8 --seconds 30 --json`
    """
    with errors_for_people():
        settings, cores, served = _prepare(family, share_cores)
        from anysize.bench.load import bench_load as measure

        report = measure(
            served,
            settings,
            cores,
            times=times,
            sizes=sizes,
            answer_tokens=answer_tokens,
            warm_s=warm_s,
            seconds=seconds,
            say=say,
        )
    show(report, as_json=as_json)


def _prepare(family: Path | None, share_cores: bool, **at_least: int) -> "tuple[Settings, Cores, Family]":
    """Settings of the service and the engine, which use the same cores and as many threads; and the family."""
    from anysize.bench.cores import deal_cores

    cores = deal_cores(shared=share_cores)  # before torch has threads, which would stay where they are
    settings = load_settings(family=family)
    more = {name: max(value, getattr(settings, name)) for name, value in at_least.items()}
    more["threads"] = settings.threads or len(cores.service)
    asked = load_settings(family=family, **more)
    settings = Settings.model_validate(asked.model_dump() | dict.fromkeys(_DOORS))
    return settings, cores, served_family(settings)
