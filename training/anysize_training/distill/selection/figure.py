"""A picture of what the methods keep, and of what that costs."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from anysize_training.distill.selection.choose import Outcome

_KEPT, _BLOCK, _BAR = "#1f5a94", "#cfe0f0", "#d98032"


def save_figure(outcomes: Sequence[Outcome], path: Path, *, title: str, text: str) -> None:
    """Draw one row a method: the teacher's layers in their blocks, the kept ones dark, and a bar of the KL divergence.

    Args:
        outcomes: first on top.
        path: a `.png` or `.svg` file.
        title: of the whole picture.
        text: on what the divergence was measured.
    """
    layers = outcomes[0].selection.blocks.teacher_layers
    strip_inches = max(4.5, 0.2 * layers)
    figure = Figure(figsize=(strip_inches + 4.8, 1.7 + 0.55 * len(outcomes)), layout="constrained")
    strip, bars = figure.subplots(1, 2, sharey=True, width_ratios=(strip_inches, 3.2))
    for row, outcome in enumerate(outcomes):
        blocks = outcome.selection.blocks
        spans = [(block.start - 0.42, len(block) - 0.16) for block in blocks.blocks]
        strip.broken_barh(spans, (row - 0.3, 0.6), color=_BLOCK)
        strip.broken_barh([(layer - 0.42, 0.84) for layer in blocks.kept], (row - 0.3, 0.6), color=_KEPT)
        bars.barh(row, outcome.kl, height=0.6, color=_BAR)
        bars.text(outcome.kl, row, f" {outcome.kl:#.3g}", va="center")
    names = [
        f"{outcome.method}\n{len(outcome.selection.depths)} sizes, blocks up to {outcome.selection.blocks.longest}"
        for outcome in outcomes
    ]
    strip.set_yticks(range(len(outcomes)), names)
    strip.set_ylim(len(outcomes) - 0.5, -0.5)
    strip.set_xlim(-0.6, layers - 0.4)
    strip.set_xticks(range(0, layers, 5 if layers > 12 else 1))
    strip.set_xlabel("teacher layer\ndark: kept, pale: the rest of its block")
    bars.set_xlim(0, max(outcome.kl for outcome in outcomes) * 1.25 + 1e-9)
    bars.set_xlabel(f"KL(teacher || pruned teacher), nats a token\n{text}")
    for axes in (strip, bars):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
