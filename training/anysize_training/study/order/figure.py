"""A picture of ladders: depth against quality, a line for each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from anysize.family.blocks import BlockMap
from anysize.family.variant import Variant
from anysize_training.study.order.contender import Contender
from anysize_training.study.quality import Quality

_COLORS = ("#1f5a94", "#d98032", "#3a8f5c", "#b23a48", "#7a5ea8", "#8d99ae", "#111111", "#c9a227")


def save_figure(
    contenders: Sequence[Contender],
    texts: Mapping[str, Mapping[Variant, Quality]],
    blocks: BlockMap,
    path: Path,
    *,
    title: str,
) -> None:
    """Draw one panel a text: KL divergence to the teacher of each size of each ladder.

    Args:
        contenders: the ladders.
        texts: the quality of each of their sizes, by what the text is called.
        blocks: for the depths.
        path: a `.png` or `.svg` file.
        title: of the whole picture.
    """
    figure = Figure(figsize=(6.5 * len(texts), 5), layout="constrained")
    for axes, (text, qualities) in zip(figure.subplots(1, len(texts), squeeze=False)[0], texts.items(), strict=True):
        for number, contender in enumerate(contenders):
            depths = [variant.depth(blocks) for variant in contender.ladder]
            values = [qualities[variant].kl for variant in contender.ladder]
            axes.plot(
                depths,
                values,
                marker="o",
                markersize=4,
                linestyle="-" if contender.order else "--",
                color=_COLORS[number % len(_COLORS)],
                label=contender.name,
            )
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("layers")
        axes.set_ylabel(f"KL(teacher || size), nats a token\n{text}")
        axes.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
