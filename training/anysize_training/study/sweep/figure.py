"""A picture of a sweep: size against perplexity, a line for each arm, with one standard deviation over seeds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_COLORS = ("#1f5a94", "#d98032", "#3a8f5c", "#b23a48", "#7a5ea8", "#8d99ae", "#111111", "#c9a227")
_LINES = ("-", "--", ":", "-.")


def draw_report(report: Mapping[str, Any], path: Path) -> None:
    """Draw a sweep.

    Args:
        report: as `anysize-train sweep` writes it.
        path: a `.png` or `.svg` file.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, arm in enumerate(report["arms"].values()):
        axes.errorbar(
            [size["layers"] for size in arm["sizes"]],
            [size["perplexity"]["mean"] for size in arm["sizes"]],
            yerr=[size["perplexity"]["deviation"] or 0.0 for size in arm["sizes"]],
            marker="o",
            markersize=4,
            capsize=3,
            linestyle="none" if arm["only_student"] else _LINES[number // len(_COLORS) % len(_LINES)],
            color=_COLORS[number % len(_COLORS)],
            label=arm["label"],
        )
    axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", which="both", color="#e5e5e5")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layers")
    axes.set_ylabel(f"perplexity of a token, {report['dataset']}")
    axes.legend(frameon=False, fontsize="small" if len(report["arms"]) <= len(_COLORS) else "xx-small")
    axes.set_title(f"{report['shows']} ({len(report['seeds'])} seeds)", fontsize=9, wrap=True)
    figure.savefig(path, dpi=120)
