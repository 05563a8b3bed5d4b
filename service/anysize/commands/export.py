"""`anysize export`: one size of a family as a checkpoint with its own card."""

from pathlib import Path

from anysize.errors import SettingsError
from anysize.family.export import export_variant
from anysize.family.family import Family, Size
from anysize.sizing.budget import find_size


def export_size(family: Family, text: str, out: Path) -> Size:
    """Write the size that a person named.

    Returns:
        The size that was written.

    Raises:
        SettingsError: the target exists.
    """
    size = find_size(family, text)
    card = (
        f"# {family.name}, size {size.id}\n\n"
        f"{size.layers} layers, {size.footprint.parameters} inference parameters "
        f"({size.fraction:.3f} of the teacher's), exported by `anysize export --size {size.id}`.\n"
        "An interpolated model of boomerang distillation (arXiv 2510.05064): student layers "
        "with some blocks replaced by the teacher's. The licence is the teacher's.\n"
    )
    try:
        export_variant(family.bank, family.tokenizer, size.variant, out, card=card)
    except FileExistsError as error:
        raise SettingsError(f"--out {out} exists already; name a folder that does not") from error
    except OSError as error:
        raise SettingsError(f"--out {out} cannot be written: {error.strerror}") from error
    return size
