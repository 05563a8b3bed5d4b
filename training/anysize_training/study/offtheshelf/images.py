"""Labelled images of one's own: a folder with one folder a class, prepared as a checkpoint says."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from anysize.errors import SettingsError
from anysize.family.files import sha256_of

_SUFFIXES = {".png", ".jpg", ".jpeg"}


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Images as a model takes them.

    Attributes:
        name: of their folder.
        sha256: of all files and their classes, in order.
        pixels_NCHW: resized and normalised.
        labels_N: the number of each image's class.
    """

    name: str
    sha256: str
    pixels_NCHW: Tensor
    labels_N: Tensor


def read_images(
    folder: Path, processor: ViTImageProcessorPil, classes: Mapping[str, int], *, most: int
) -> LabelledImages:
    """Read PNG and JPEG files, of each class the same number where there are enough.

    Args:
        folder: has a folder for each class, with its images.
        processor: of the checkpoint.
        classes: the number of each label.
        most: read at most so many images; of a folder the first ones by name.

    Raises:
        SettingsError: there are none, a folder is named like no label, or a file is no image.
    """
    of_class = {path.name: _files(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    of_class = {name: files for name, files in of_class.items() if files}
    if not of_class:
        raise SettingsError(f"{folder} has no folder with .png or .jpg files in it; there must be one for each class")
    for name in of_class:
        if name not in classes:
            known = ", ".join(sorted(classes)[:5])
            raise SettingsError(f"{folder / name} is named like no label of the model; its labels are {known} ...")
    each = max(1, most // len(of_class))
    chosen = [(path, name) for name, files in of_class.items() for path in files[:each]][:most]
    digest = hashlib.sha256()
    pixels: list[Tensor] = []
    for path, name in tqdm(chosen, desc="reading images", unit="image", leave=False):
        digest.update(f"{name} {sha256_of(path)}\n".encode())
        pixels.append(_pixels(path, processor))
    labels_N = torch.tensor([classes[name] for _path, name in chosen])
    return LabelledImages(folder.resolve().name, digest.hexdigest(), torch.cat(pixels), labels_N)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def _pixels(path: Path, processor: ViTImageProcessorPil) -> Tensor:
    try:
        with Image.open(path) as image:
            return processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise SettingsError(f"{path} cannot be read as an image: {error}") from error
