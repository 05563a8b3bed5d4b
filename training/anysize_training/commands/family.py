"""The family that a command works on."""

from pathlib import Path

import torch

from anysize.console import say
from anysize.family.architectures import architecture_of
from anysize.family.bank import Bank
from anysize.family.blocks import BlockMap
from anysize.family.family import Family, builtin_folder
from anysize.family.fetch import BUILTIN
from anysize.family.manifest import MANIFEST, read_manifest
from anysize.family.order import nested_ladder
from anysize.family.pretrained import checkpoint_fingerprint, load_model, load_tokenizer
from anysize.family.variant import Variant
from anysize.settings import resolve_device


def family_folder(named: Path) -> Path:
    """The folder of a family; `builtin` and, where there is no such folder, its own name are the one that ships."""
    is_builtin = str(named) == "builtin" or (str(named) == BUILTIN and not named.exists())
    return builtin_folder() if is_builtin else named


def load_family(named: Path) -> tuple[Path, Family]:
    """The folder and the family of a command line; `builtin` names the one that ships.

    Raises:
        ArtifactError: the folder is damaged.
        FetchError: its teacher is not on this machine.
    """
    folder = family_folder(named)
    say(f"loading {folder.name}")
    return folder, Family.load(folder, dtype=torch.float32, device=resolve_device("auto"))


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a single model, such as `baseline --save` writes."""
    return (folder / "config.json").is_file() and not (folder / MANIFEST).exists()


def load_checkpoint(folder: Path) -> tuple[Family, dict[str, str]]:
    """A single model as a family of one size, `teacher`, and what its numbers follow from.

    Raises:
        ArtifactError: the checkpoint cannot be read.
    """
    say(f"loading {folder.name}")
    fingerprint = checkpoint_fingerprint(folder)
    model = load_model(folder, dtype=torch.float32, device=resolve_device("auto"))
    architecture = architecture_of(model.config, str(folder))
    layers = len(architecture.layers_of(model))
    bank = Bank(architecture, BlockMap(tuple(range(layers)), layers), model, model)
    return Family(folder.name, bank, load_tokenizer(folder), ladder=["teacher"]), {"checkpoint": fingerprint}


def family_depths(named: Path | None) -> list[int]:
    """The depths of a family's sizes, from its manifest alone; none without a family.

    Raises:
        ArtifactError: the manifest is damaged.
    """
    if named is None:
        return []
    manifest = read_manifest(family_folder(named))
    blocks, positions = manifest.block_map(), len(manifest.kept_layers)
    if manifest.ladder is None:
        ladder = nested_ladder(manifest.patch_order, positions, lambda variant: variant.depth(blocks))
    else:
        ladder = tuple(Variant.parse(text, positions) for text in manifest.ladder)
    return sorted({variant.depth(blocks) for variant in ladder})
