"""`anysize-train patch-images`: every size between an image classifier that others distilled and its teacher."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from tqdm import tqdm

from anysize.console import print_json, say, terminal
from anysize.family.order import OrderName, nested_ladder
from anysize.family.variant import Variant
from anysize.settings import resolve_device
from anysize_training.commands.patch import kept_layers
from anysize_training.study.offtheshelf.images import LabelledImages, read_images
from anysize_training.study.offtheshelf.load import load_vision_pair
from anysize_training.study.offtheshelf.vision import VisionPair, image_quality


def patch_images(
    teacher: str,
    student: str,
    folder: Path,
    *,
    kept: str,
    patch_order: OrderName,
    most: int,
    batch: int,
    pruned: bool,
    as_json: bool,
) -> None:
    """Measure every size of a pair on labelled images, and print them.

    Args:
        teacher: a checkpoint folder, or a name on the hub.
        student: likewise.
        folder: of images; see `read_images`.
        kept: the teacher layers that the student's were copied from, with commas between.
        patch_order: in which order positions are patched as sizes grow.
        most: read at most so many images.
        batch: images at once.
        pruned: also score the teacher pruned to each size.
        as_json: print one JSON object instead of a table.

    Raises:
        AnysizeError: they are no pair, or an image cannot be read.
    """
    pair = load_vision_pair(teacher, student, kept_layers(kept), device=resolve_device("auto"), say=say)
    images = read_images(folder, pair.processor, pair.classes, most=most)
    measured = {"patched": _measure(pair, images, patch_order, batch, "patched")}
    if pruned:
        measured["pruned"] = _measure(pair.pruned(), images, patch_order, batch, "pruned")
    if as_json:
        print_json(
            {
                "pair": pair.name,
                "fingerprint": pair.fingerprint,
                "kept_layers": pair.blocks.kept,
                "patch_order": patch_order,
                "dataset": images.name,
                "dataset_sha256": images.sha256,
                "images": len(images.labels_N),
                **measured,
            }
        )
        return
    columns = ["variant", "layers", "parameters", "cross entropy", "accuracy", "as teacher"]
    table = Table(*columns, *(["pruned: accuracy"] if pruned else []), title=f"{pair.name} on {images.name}")
    for number, row in enumerate(measured["patched"]):
        cells = [row["variant"], str(row["layers"]), f"{row['parameters']:,}", f"{row['cross_entropy']:.3f}"]
        cells += [f"{row['accuracy']:.1%}", f"{row['agreement']:.1%}"]
        if pruned:
            cells.append(f"{measured['pruned'][number]['accuracy']:.1%}")
        table.add_row(*cells)
    terminal.print(table)


def _measure(
    pair: VisionPair, images: LabelledImages, order: OrderName, batch: int, which: str
) -> list[dict[str, Any]]:
    teacher_NC = pair.logits(Variant.teacher(pair.blocks.student_layers), images, batch=batch)
    rows: list[dict[str, Any]] = []
    for variant in tqdm(nested_ladder(order, pair.blocks.student_layers, pair.parameters), desc=which, unit="size"):
        quality = image_quality(pair.logits(variant, images, batch=batch), teacher_NC, images.labels_N)
        size = {"variant": variant.id, "layers": variant.depth(pair.blocks), "parameters": pair.parameters(variant)}
        rows.append(size | asdict(quality))
    return rows
