"""A distillation from recipe to family folder: teacher, student, data, run, artifact."""

import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from anysize.errors import SettingsError
from anysize.family.architectures import architecture_of
from anysize.family.artifact import write_family
from anysize.family.bank import Bank
from anysize.family.family import Family
from anysize.family.fetch import Say
from anysize.family.files import sha256_of
from anysize.family.manifest import DeltaStudent, FolderTeacher, FullStudent, Manifest, Provenance
from anysize.family.order import positions_in_order
from anysize.family.pretrained import load_model, load_tokenizer
from anysize.settings import resolve_device, torch_dtype
from anysize_training.card import model_card
from anysize_training.distill.checkpoint import Progress
from anysize_training.distill.data import load_sequences
from anysize_training.distill.initialise import initial_bank
from anysize_training.distill.recipe import Recipe
from anysize_training.distill.teacher import TeacherSource, find_teacher
from anysize_training.distill.trainer import Trainer

_PACKAGES = ("anysize", "torch", "transformers")


def distill(recipe: Recipe, out: Path, *, resume: bool, command: Sequence[str], say: Say) -> Path | None:
    """Run a recipe.

    Args:
        recipe: what to do.
        out: gets `recipe.json`, `log.jsonl`, `checkpoints/` and, at the end, `family/`.
        resume: go on from the newest checkpoint in `out`.
        command: the command line, for the model card.
        say: told in one line what is being done.

    Returns:
        The family folder, or None if the run was stopped before its last step.

    Raises:
        SettingsError: `out` holds another run, or text or teacher cannot be read.
    """
    _claim(out, resume=resume)
    say(f"loading the teacher {recipe.teacher}")
    source, folder = find_teacher(recipe.teacher, say)
    device = resolve_device(recipe.run.device)
    teacher = load_model(folder, dtype=torch.float32, device=device)
    tokenizer = load_tokenizer(folder)
    architecture = architecture_of(teacher.config, str(folder))
    bank = initial_bank(recipe.student, teacher, architecture, seed=recipe.run.seed)
    positions_in_order(recipe.patch_order, bank.blocks.student_layers)
    sequences = load_sequences(
        recipe.data, tokenizer, limit=recipe.run.steps * recipe.run.batch_size, seed=recipe.run.seed
    )
    count, length = len(sequences.tokens_NL), recipe.data.sequence_length
    say(f"{count:,} sequences of {length} tokens from {sequences.documents:,} documents")
    trainer = Trainer(recipe, bank, sequences, out)
    if resume and (step := trainer.resume()):
        if step == recipe.run.steps and (out / "family").exists():
            say(f"this run is finished; its family is {out / 'family'}")
            return out / "family"
        say(f"resuming at step {step}")
    (out / "recipe.json").write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    progress = trainer.train()
    if progress.step < recipe.run.steps:
        say(f"stopped at step {progress.step} of {recipe.run.steps}; go on with --resume")
        return None
    manifest = _manifest(recipe, bank, source, progress, command)
    family = Family(recipe.name, bank, tokenizer, patch_order=recipe.patch_order)
    write_family(
        out / "family",
        manifest,
        bank,
        teacher_folder=folder,
        card=model_card(family, manifest),
        dtype=torch_dtype(recipe.student.stored_dtype),
        replace=True,
    )
    say(f"wrote {out / 'family'}; serve it with: anysize serve --family {out / 'family'}")
    return out / "family"


def _claim(out: Path, *, resume: bool) -> None:
    if (out / "recipe.json").exists() and not resume:
        raise SettingsError(f"{out} holds a run already; go on with --resume, or name another --out")
    out.mkdir(parents=True, exist_ok=True)


def _manifest(
    recipe: Recipe,
    bank: Bank,
    source: TeacherSource,
    progress: Progress,
    command: Sequence[str],
) -> Manifest:
    data = Path(recipe.data.source)
    # Paths of this machine mean nothing elsewhere, and may say more than they should.
    public = recipe.model_copy(
        update={
            "teacher": Path(recipe.teacher).name if isinstance(source, FolderTeacher) else recipe.teacher,
            "data": recipe.data.model_copy(update={"source": data.name}),
        }
    )
    student = recipe.student
    return Manifest(
        name=recipe.name,
        architecture=bank.architecture.model_type,
        teacher_layers=bank.blocks.teacher_layers,
        kept_layers=bank.blocks.kept,
        teacher=source,
        student=DeltaStudent(rank=student.rank) if student.kind == "delta" else FullStudent(),
        patch_order=recipe.patch_order,
        files={},
        provenance=Provenance(
            command=shlex.join(_without_folders(command)),
            recipe=public.model_dump(mode="json"),
            data=data.name,
            data_sha256=sha256_of(data) if data.is_file() else None,
            tokens=progress.tokens,
            seconds=progress.seconds,
            versions={name: version(name) for name in _PACKAGES},
        ),
    )


def _without_folders(command: Sequence[str]) -> list[str]:
    shortened = []
    for word in command:
        key, equals, value = word.rpartition("=")
        shortened.append(f"{key}{equals}{Path(value).name}" if Path(value).is_absolute() else word)
    return shortened
