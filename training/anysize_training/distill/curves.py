"""The curves of a run as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anysize_training.distill.journal import EVALUATIONS, STEPS, read_journal

CURVES = "curves.png"
_TERMS = {"total": "total", "cross_entropy": "cross entropy", "kl": "KL divergence", "cosine": "cosine distances"}
_PERPLEXITIES = {
    "student_perplexity": "student",
    "middle_perplexity": "half of the positions patched",
    "teacher_perplexity": "teacher",
}


def draw_curves(folder: Path, title: str) -> Path:
    """Draw the journals of a run into `curves.png` beside them.

    Args:
        folder: of the run.
        title: over the picture.
    """
    steps, evaluations = read_journal(folder / STEPS), read_journal(folder / EVALUATIONS)
    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(title)
    (losses, quality), (ends, optimizer) = figure.subplots(2, 2)
    _lines(losses, steps, _TERMS)
    losses.set(title="Equation 1", xlabel="step", ylabel="nats, distance", yscale="log")
    _lines(quality, evaluations, _PERPLEXITIES)
    quality.set(title="held-out perplexity", xlabel="step", yscale="log")
    if evaluations:
        cosines = evaluations[-1]["cosine"]
        ends.bar(range(1, len(cosines) + 1), cosines, color="tab:green")
        ends.set(ylim=(min(0.0, *cosines), 1.0))
    ends.set(title="held-out cosine similarity at block ends, last step", xlabel="position")
    _lines(optimizer, steps, {"gradient_norm": "gradient norm"})
    optimizer.set(title="optimizer", xlabel="step", yscale="log")
    rate = optimizer.twinx()
    rate.plot([line["step"] for line in steps], [line["learning_rate"] for line in steps], color="tab:gray")
    rate.set_ylabel("learning rate (gray)")
    figure.savefig(folder / CURVES, dpi=110)
    return folder / CURVES


def _lines(axes: Axes, journal: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> None:
    for key, label in names.items():
        points = [(line["step"], line[key]) for line in journal if line[key] is not None]
        if points:
            marker = "o" if len(points) < 20 else ""
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2, marker=marker)
    if axes.lines:
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes)
    axes.grid(alpha=0.3)
