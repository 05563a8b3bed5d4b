"""Pictures of the analyses."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from anysize.family.blocks import BlockMap
from anysize_training.study.analyse.flops import FamilyFlops
from anysize_training.study.analyse.last_layer import LastLayer

_BLUE, _ORANGE, _GREY = "#1f5a94", "#d98032", "#8d99ae"
_FIRST, _LAST = "#e0559a", "#f2c230"
_MAX_TICKS = 18


def save_heat_map(
    similarity_RN: Tensor, path: Path, *, title: str, rows: str, text: str, blocks: BlockMap | None = None
) -> None:
    """Draw cosines, a row of the matrix for each row of cells.

    Args:
        similarity_RN: of R layers with the N teacher layers.
        path: a `.png` or `.svg` file.
        title: of the picture.
        rows: what the R layers are.
        text: that was measured on.
        blocks: marks, in row i, the first and the last layer of block i, as the paper does.
    """
    count, layers = similarity_RN.shape
    figure = Figure(figsize=(max(5.0, 0.26 * layers) + 2.2, max(3.0, 0.26 * count) + 1.9), layout="constrained")
    axes = figure.subplots()
    values = similarity_RN.numpy()
    lowest = min(0.0, float(values.min()))
    image = axes.imshow(values, cmap="Blues", vmin=lowest, vmax=1, aspect="equal")
    if blocks is not None:
        for position, block in enumerate(blocks.blocks):
            # A block of one layer has one frame inside the other.
            for layer, color, inset in ((block[0], _FIRST, 0.06), (block[-1], _LAST, 0.2)):
                corner = (layer - 0.5 + inset, position - 0.5 + inset)
                side = 1 - 2 * inset
                axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=color, linewidth=2))
        handles = [Rectangle((0, 0), 1, 1, fill=False, edgecolor=color, linewidth=2) for color in (_FIRST, _LAST)]
        figure.legend(
            handles, ["first layer of its block", "last layer of its block"], loc="outside lower center", ncols=2,
            frameon=False,
        )  # fmt: skip
    for axis, ticks in ((axes.xaxis, layers), (axes.yaxis, count)):
        axis.set_ticks(range(0, ticks, 1 if ticks <= _MAX_TICKS else 5))
    axes.set_xlabel(f"teacher layer, from 0\nmeasured on {text}")
    axes.set_ylabel(f"{rows}, from 0")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="mean cosine of outputs", fraction=0.04, pad=0.02)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def save_last_layers(
    nested: Sequence[LastLayer],
    ladder: Sequence[LastLayer],
    path: Path,
    *,
    order: str,
    title: str,
    text: str,
    blocks: BlockMap,
) -> None:
    """Draw how alike last layers are, by patched positions as in Figure 27 and by depth.

    Args:
        nested: the variants met in patch order, unpatched first.
        ladder: the sizes that are served.
        path: a `.png` or `.svg` file.
        order: the patch order's name.
        title: of the whole picture.
        text: that was measured on.
        blocks: for the depths.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, by_depth in zip(figure.subplots(1, 2, sharey=True), (False, True), strict=True):

        def places(found: Sequence[LastLayer], by_depth: bool = by_depth) -> list[int]:
            if by_depth:
                return [one.variant.depth(blocks) for one in found]
            return [len(one.variant.patched) for one in found]

        for found, color, style, name in (
            (nested, _BLUE, "o-", f"patched {order}"),
            (ladder, _ORANGE, "s", "sizes of the ladder"),
        ):
            axes.plot(places(found), [one.cosine for one in found], style, color=color, markersize=5, label=name)
        axes.plot(
            places(nested),
            [one.cosine_after_norm for one in nested],
            "o--",
            color=_GREY,
            markersize=4,
            label=f"patched {order}, behind the final norm",
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("layers" if by_depth else "patched positions")
        if not by_depth:
            axes.set_ylabel(f"mean cosine to the teacher's last layer\non {text}")
            axes.legend(frameon=False, loc="lower right")
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def save_flops(flops: FamilyFlops, path: Path, *, title: str, student_layers: int, teacher_layers: int) -> None:
    """Draw what a token costs by depth, and what distilling every interior size would cost beside one distillation.

    Args:
        flops: of the family.
        path: a `.png` or `.svg` file.
        title: of the whole picture.
        student_layers: M.
        teacher_layers: N.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    run, train = figure.subplots(1, 2)
    depths = [size.layers for size in flops.sizes]
    run.plot(depths, [size.forward / 1e6 for size in flops.sizes], "o-", color=_BLUE, label="closed form")
    counted = [size.counted_forward / 1e6 for size in flops.sizes]
    run.plot(depths, counted, "s--", color=_ORANGE, markersize=4, label="counted by torch, attention scores too")
    run.set_ylim(bottom=0)
    run.set_ylabel("forward pass, million FLOPs a token")
    run.legend(frameon=False, loc="lower right")
    interior = [size for size in flops.sizes if student_layers < size.layers < teacher_layers]
    costs = [size.distillation * flops.tokens for size in interior]
    train.bar([size.layers for size in interior], costs, color=_GREY, label="a student of that depth, by itself")
    train.bar([student_layers], [flops.training.distillation], color=_BLUE, label="the family's student, once")
    train.set_ylabel(f"distillation on {flops.tokens:,} tokens, FLOPs")
    train.set_title(
        f"all grey bars {flops.training.interior_sizes:.2e}, {flops.training.ratio:.1f} times the blue one", fontsize=10
    )
    train.set_ylim(top=1.25 * max([*costs, flops.training.distillation]))
    train.legend(frameon=False, loc="upper left")
    for axes in (run, train):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
        axes.set_axisbelow(True)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("layers")
    figure.suptitle(title)
    figure.savefig(path, dpi=150)
