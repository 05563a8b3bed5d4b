"""Fleets drawn over time: how many replicas, how loaded, on which sizes, and what was refused."""

from pathlib import Path

from matplotlib.figure import Figure

from fleet import Counted

_COLORS = ("#8d99ae", "#1b6ca8", "#c1121f", "#e09f3e")
_PANELS = (
    (2, "replicas"),
    (3, "demand: running and waiting over places"),
    (4, "mean size of new answers, over the teacher's"),
    (5, "share of requests refused"),
)


def draw(fleets: dict[str, Counted], path: Path) -> None:
    """Draw the curves of fleets into a file of any kind that matplotlib knows by its ending."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    for axes, (column, title) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for (name, counted), color in zip(fleets.items(), _COLORS, strict=True):
            minutes = [point[0] / 60 for point in counted.curve]
            axes.plot(minutes, [point[column] for point in counted.curve], color=color, label=name, linewidth=1.5)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("minutes")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=130)
