"""The model card of a family folder, written from its manifest."""

from collections.abc import Sequence
from pathlib import Path

from anysize.family.family import Family
from anysize.family.manifest import BuiltinTeacher, DeltaStudent, HubTeacher, Manifest
from anysize.family.order import positions_in_order

_GOES_ON = "The run went on from the student of another family (sha256 `{}`), whose own training is not counted here."


def model_card(family: Family, manifest: Manifest, plots: Sequence[str] = ()) -> str:
    """Markdown for people: what the family is, how it was made, and what was measured.

    Args:
        family: for the sizes.
        manifest: everything else.
        plots: names of pictures in the folder.
    """
    teacher = manifest.teacher
    source = "the folder `teacher`"
    if isinstance(teacher, BuiltinTeacher):
        source = f"`{teacher.name}`, brought by `anysize fetch`"
    elif isinstance(teacher, HubTeacher):
        source = f"`{teacher.repo}` at revision `{teacher.revision[:12]}`"
    student = f"`delta`, rank {manifest.student.rank}" if isinstance(manifest.student, DeltaStudent) else "`full`"
    parts = [
        f"# {manifest.name}",
        "A family for [Anysize](https://pypi.org/project/anysize/): a student made by boomerang distillation "
        "(arXiv 2510.05064), from which every size up to the teacher is put together without training.",
        f"- teacher: {source} ({manifest.architecture}, {manifest.teacher_layers} layers)\n"
        f"- student: {student}, {len(manifest.kept_layers)} layers, initialised from teacher layers "
        f"{', '.join(map(str, manifest.kept_layers))} (counted from 0)\n"
        f"- patch order: {_order(family, manifest)}",
        *_provenance(manifest),
        *(f"![{Path(name).stem} of the run]({name})" for name in plots),
        *_sizes(family, manifest),
    ]
    return "\n\n".join(parts) + "\n"


def _order(family: Family, manifest: Manifest) -> str:
    order = manifest.patch_order
    named = order if isinstance(order, str) else ", ".join(map(str, order))
    if manifest.ladder is None:
        return named
    sequence = positions_in_order(order, family.positions)
    follows = all(set(size.variant.patched) == set(sequence[: len(size.variant.patched)]) for size in family.ladder)
    what = (
        "follows it and leaves out what a smaller size beats" if follows else "is the best subset found for each size"
    )
    return f"{named}; the ladder below {what}"


def _provenance(manifest: Manifest) -> list[str]:
    made = manifest.provenance
    if made is None:
        return []
    code = " and code" if made.code_sha256 else ""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(made.versions.items()))
    return [
        "## How it was made",
        f"```\n{made.command}\n```",
        *([_GOES_ON.format(made.started_from_sha256[:12])] if made.started_from_sha256 else []),
        f"{made.tokens:,} tokens of `{made.data}` in {made.seconds / 60:.0f} minutes, with {versions}. "
        f"`family.json` holds every value of the recipe and hashes of recipe, text, teacher{code}.",
    ]


def _sizes(family: Family, manifest: Manifest) -> list[str]:
    measured = {measurement.variant: measurement for measurement in manifest.measurements}
    has_int8 = any(one.perplexity_int8 for one in measured.values())
    rows = [
        "| variant | layers | parameters | fraction | perplexity | KL to teacher |" + (" int8 |" if has_int8 else ""),
        "|---|---|---|---|---|---|" + ("---|" if has_int8 else ""),
    ]
    for size in family.ladder:
        quality = measured.get(size.id)
        perplexity = f"{quality.perplexity:.2f}" if quality else ""
        divergence = f"{quality.kl:.3f}" if quality and quality.kl is not None else ""
        rows.append(
            f"| `{size.id}` | {size.layers} | {size.footprint.parameters:,} | {size.fraction:.3f} "
            f"| {perplexity} | {divergence} |"
            + (f" {quality.perplexity_int8:.2f} |" if quality and quality.perplexity_int8 else "")
        )
    parts = ["## Sizes", "\n".join(rows)]
    if manifest.ladder_command is not None:
        parts.append(f"The ladder was found by\n\n```\n{manifest.ladder_command}\n```")
    if measured:
        some = next(iter(measured.values()))
        parts.append(
            f"Measured on the first {some.tokens:,} tokens of `{some.dataset}` (sha256 `{some.dataset_sha256[:12]}`)."
            + (" Under int8 is the perplexity with `--quantize int8`." if has_int8 else "")
        )
    if manifest.measurements_command is not None:
        parts.append(f"```\n{manifest.measurements_command}\n```")
    if manifest.untrained is not None:
        parts.append(
            f"Before distillation the student's perplexity on the same text is {manifest.untrained.perplexity:,.0f}."
        )
    return parts
