"""A picture of the sizes between student and teacher (paper, Figure 6)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_STYLES = {"patched": ("#1f5a94", "-", "student patched"), "pruned": ("#8d99ae", "--", "teacher pruned")}


def save_figure(measured: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, *, measure: str, title: str) -> None:
    """Draw parameters against perplexity.

    Args:
        measured: `patched` and perhaps `pruned`: sizes with `parameters` and `perplexity`.
        path: a `.png` or `.svg` file.
        measure: what the perplexity is called.
        title: over the picture.
    """
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for which, rows in measured.items():
        color, line, label = _STYLES[which]
        sizes = [row["parameters"] / 1e6 for row in rows]
        values = [row["perplexity"] for row in rows]
        axes.plot(sizes, values, marker="o", markersize=4, color=color, linestyle=line, label=label)
    axes.set(xlabel="inference parameters, millions", ylabel=measure, yscale="log", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
