"""The command line `anysize-train`. Each command parses here, and does its work in `anysize_training.commands`."""

import typer

from anysize_training.cli.comparing import analyse, baseline
from anysize_training.cli.making import bench, distill, init, plan, untrained
from anysize_training.cli.studying import evaluate, ladder, order, patch, patch_images
from anysize_training.cli.sweeping import report, sweep

app = typer.Typer(
    name="anysize-train",
    help="Make students, and measure what they are worth.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for command in (
    init,
    plan,
    untrained,
    distill,
    evaluate,
    patch,
    patch_images,
    baseline,
    analyse,
    ladder,
    order,
    sweep,
    report,
    bench,
):
    app.command()(command)
