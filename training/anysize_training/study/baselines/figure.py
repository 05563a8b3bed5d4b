"""A picture of baselines beside a family: depth against perplexity and KL divergence."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

FAMILY = "family"
_COLORS = {
    FAMILY: "#1f5a94",
    "naive": "#8d99ae",
    "shortgpt_once": "#d98032",
    "shortgpt_rescored": "#b23a48",
    "laco_equation": "#7a5ea8",
    "laco_official": "#3a8f5c",
    "untrained": "#111111",
}
_PANELS = (("perplexity", "perplexity"), ("kl", "KL(teacher || model), nats a token"))


def save_figure(
    rows: Sequence[Mapping[str, Any]], path: Path, *, title: str, text: str, teacher_perplexity: float
) -> None:
    """Draw one panel a measure, one line a method.

    Args:
        rows: of the report; those of a method are drawn at the depth that their models have.
        path: a `.png` or `.svg` file.
        title: of the whole picture.
        text: that was scored.
        teacher_perplexity: drawn as a line.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")
    methods = dict.fromkeys(row["method"] for row in rows)
    for axes, (measure, label) in zip(figure.subplots(1, 2), _PANELS, strict=True):
        for method in methods:
            # Two asked depths may be answered by one model.
            points = {
                row["layers"]: row[measure]
                for row in rows
                if row["method"] == method and row[measure] is not None and math.isfinite(row[measure])
            }
            is_family = method == FAMILY
            axes.plot(
                sorted(points),
                [points[layers] for layers in sorted(points)],
                marker="o",
                markersize=5 if is_family else 4,
                linewidth=2.5 if is_family else 1.4,
                linestyle="--" if method == "untrained" else "-",
                color=_COLORS[method],
                zorder=3 if is_family else 2,
                label="this family" if is_family else method.replace("_", ", "),
            )
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("layers")
        axes.set_ylabel(f"{label}\n{text}")
        if measure == "perplexity":
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator())
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.axhline(teacher_perplexity, color="#999999", linewidth=1, linestyle=":")
            axes.text(
                axes.get_xlim()[0], teacher_perplexity, " teacher", va="bottom", ha="left", fontsize=8, color="#666666"
            )
        else:
            axes.set_ylim(bottom=0)
            axes.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
