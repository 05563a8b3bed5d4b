"""A picture of a sweep: size against perplexity, a line for each arm, with one standard deviation over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anysize_training.study.sweep.summary import Point
from anysize_training.study.sweep.sweep import Sweep

_COLORS = ("#1f5a94", "#d98032", "#3a8f5c", "#b23a48", "#7a5ea8", "#8d99ae", "#111111", "#c9a227")


def save_figure(sweep: Sweep, points: Mapping[str, Sequence[Point]], path: Path, *, text: str) -> None:
    """Draw it.

    Args:
        sweep: what is compared.
        points: the sizes of each arm.
        path: a `.png` or `.svg` file.
        text: what was scored.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (arm, sizes) in enumerate(points.items()):
        axes.errorbar(
            [size.layers for size in sizes],
            [size.perplexity.mean for size in sizes],
            yerr=[size.perplexity.deviation or 0.0 for size in sizes],
            marker="o",
            markersize=4,
            capsize=3,
            linestyle="none" if sweep.arms[arm].only_student else "-",
            color=_COLORS[number % len(_COLORS)],
            label=sweep.arms[arm].label or arm,
        )
    axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", which="both", color="#e5e5e5")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layers")
    axes.set_ylabel(f"perplexity of a token\n{text}")
    axes.legend(frameon=False)
    axes.set_title(sweep.shows, fontsize=9, wrap=True)
    figure.savefig(path, dpi=120)
