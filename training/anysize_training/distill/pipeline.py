"""A distillation from recipe to family folder: teacher, text, student, run, artifact."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from anysize.errors import ArtifactError, SettingsError
from anysize.family.architectures import architecture_of
from anysize.family.artifact import STUDENT, write_family
from anysize.family.bank import Bank
from anysize.family.family import Family
from anysize.family.fetch import Say
from anysize.family.manifest import Manifest
from anysize.family.order import positions_in_order
from anysize.family.pretrained import Tokenizer, load_config, load_model, load_tokenizer, read_json
from anysize.settings import resolve_device, torch_dtype
from anysize_training.card import model_card
from anysize_training.distill.batches import Sequences
from anysize_training.distill.checkpoint import clear_unfinished, latest_checkpoint, restore_weights
from anysize_training.distill.corpus import load_corpus
from anysize_training.distill.curves import draw_curves
from anysize_training.distill.initialise import initial_bank, parent_manifest
from anysize_training.distill.optimizer import trained_parameters
from anysize_training.distill.processes import Processes
from anysize_training.distill.provenance import code_sha256, identity_of, manifest_of
from anysize_training.distill.recipe import FromFamily, KeptLayers, Recipe, Student
from anysize_training.distill.teacher import TeacherSource, find_teacher
from anysize_training.distill.trainer import Trainer

_RECIPE, _KEPT = "recipe.json", "kept_layers.json"
_CALIBRATION_WINDOW = 128


def distill(recipe: Recipe, out: Path, *, resume: bool, command: Sequence[str], say: Say) -> Path | None:
    """Run a recipe, in this process or in all that a launcher has started.

    Args:
        recipe: what to do.
        out: gets `recipe.json`, the journals, `checkpoints/` and, at the end, `curves.png` and `family/`.
        resume: go on from the newest checkpoint in `out`.
        command: the command line, for the model card.
        say: told in one line what is being done.

    Returns:
        The family folder, or None if the run was stopped before its last step.

    Raises:
        SettingsError: `out` holds another run, or text or teacher cannot be read.
    """
    processes = Processes(recipe.run, resolve_device(recipe.run.device))
    if not processes.is_main:
        say = _silent
    code = code_sha256()
    with processes.main_first():
        _claim(out, resume=resume or not processes.is_main)
        say(f"loading the teacher {recipe.teacher}")
        source, folder = find_teacher(recipe.teacher, say)
    _check_context(recipe, folder)
    start = _start_sha256(recipe.student, source)
    tokenizer = load_tokenizer(folder)
    with processes.main_first():
        corpus = load_corpus(
            recipe.data,
            tokenizer,
            rows=recipe.run.steps * recipe.run.batch_size,
            seed=recipe.run.seed,
            private=out / "tokens",
        )
    say(f"{len(corpus.training):,} rows of {recipe.data.sequence_length} from {corpus.training.documents:,} documents")
    # Sharding takes layer after layer from the CPU, since no device may have room for all of them.
    device = torch.device("cpu") if processes.is_sharded else processes.device
    bank = _bank(_resolved(recipe.student, out), folder, device, seed=recipe.run.seed, text=corpus.training)
    positions_in_order(recipe.patch_order, bank.blocks.student_layers)
    if processes.is_main and not (out / _RECIPE).exists():
        (out / _KEPT).write_text(json.dumps({"kept_layers": bank.blocks.kept}) + "\n", encoding="utf-8")
        (out / _RECIPE).write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
    # Parameters alone: rotary frequencies stay in float32, as transformers keeps them.
    for parameter in bank.teacher.parameters():
        parameter.data = parameter.data.to(torch_dtype(recipe.run.teacher_dtype))
    identity = identity_of(recipe, source, corpus, start)
    trainer = Trainer(recipe, bank, corpus, out, processes=processes, identity=identity)
    if resume and (step := trainer.resume()):
        if step == recipe.run.steps and (out / "family").exists():
            say(f"this run is finished; its family is {out / 'family'}")
            return out / "family"
        say(f"resuming at step {step}")
    progress = trainer.train()
    if progress.step < recipe.run.steps:
        say(f"stopped at step {progress.step} of {recipe.run.steps}; go on with --resume")
        return None
    if processes.is_main:
        if processes.is_sharded or recipe.run.teacher_dtype != "float32":
            bank = _reassembled(recipe, out, folder)
        manifest = manifest_of(recipe, bank, source, corpus, progress, command=command, code=code)
        _write(recipe, out, bank, tokenizer, manifest, folder)
        say(f"wrote {out / 'family'}; serve it with: anysize serve --family {out / 'family'}")
    return out / "family"


def _claim(out: Path, *, resume: bool) -> None:
    if (out / _RECIPE).exists() and not resume:
        raise SettingsError(f"{out} holds a run already; go on with --resume, or name another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot make the folder {out}: {error.strerror}; name another --out") from error
    clear_unfinished(out, "family")
    clear_unfinished(out / "checkpoints", "step-")


def _resolved(student: Student, out: Path) -> Student:
    """With the kept layers that this run has settled on, if it has: what was measured once is not measured again."""
    # What comes from a family is its weights too, and reading them again costs nothing.
    if isinstance(student.initialise, FromFamily) or not (out / _RECIPE).exists():
        return student
    try:
        kept = KeptLayers.model_validate({"layers": read_json(out / _KEPT).get("kept_layers")})
    except ValidationError as error:
        raise ArtifactError(out / _KEPT, "names no kept layers; begin the run again in another folder") from error
    return student.model_copy(update={"initialise": kept})


def _check_context(recipe: Recipe, folder: Path) -> None:
    context = getattr(load_config(folder), "max_position_embeddings", None)
    if context is not None and recipe.data.sequence_length > context:
        wanted = recipe.data.sequence_length
        raise SettingsError(f"data.sequence_length {wanted} is more than the {context} tokens of the teacher's context")


def _start_sha256(student: Student, source: TeacherSource) -> str | None:
    """The hash of the student that a run goes on from, which must have been made for the same teacher."""
    choice = student.initialise
    if not isinstance(choice, FromFamily):
        return None
    parent = parent_manifest(choice)
    theirs = parent.teacher.fingerprint
    if theirs != source.fingerprint:
        raise SettingsError(
            f"student.initialise.path {choice.path} was made for a teacher with weights {theirs[:12]}, but this "
            f"recipe's has {source.fingerprint[:12]}; its student cannot be trained further beside another teacher"
        )
    stored = parent.files.get(STUDENT)
    return stored.sha256 if stored else None


def _bank(student: Student, folder: Path, device: torch.device, *, seed: int, text: Sequences | None) -> Bank:
    teacher = load_model(folder, dtype=torch.float32, device=device)
    architecture = architecture_of(teacher.config, str(folder))
    calibration_NL = None if text is None else _calibration(student, text)
    return initial_bank(student, teacher, architecture, seed=seed, calibration_NL=calibration_NL)


def _calibration(student: Student, text: Sequences) -> Tensor | None:
    """The first counted tokens of the training text in short windows, for initialisations that measure."""
    tokens = getattr(student.initialise, "calibration_tokens", 0)
    if not tokens:
        return None
    counted: list[Tensor] = []
    for number in range(len(text)):
        if sum(map(len, counted)) >= tokens:
            break
        row = text.rows(torch.tensor([number]))
        counted.append(row.inputs_BL[row.is_counted_BL])
    counted_T = torch.cat(counted)[:tokens]
    window = min(_CALIBRATION_WINDOW, len(counted_T))
    return counted_T[: len(counted_T) // window * window].view(-1, window)


def _reassembled(recipe: Recipe, out: Path, teacher_folder: Path) -> Bank:
    """A bank in one piece and in full precision, from the last checkpoint."""
    bank = _bank(_resolved(recipe.student, out), teacher_folder, torch.device("cpu"), seed=0, text=None)
    checkpoint = latest_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    restore_weights(checkpoint, trained_parameters(bank, recipe))
    return bank


def _write(
    recipe: Recipe,
    out: Path,
    bank: Bank,
    tokenizer: Tokenizer,
    manifest: Manifest,
    teacher_folder: Path,
) -> None:
    family = Family(recipe.name, bank, tokenizer, patch_order=recipe.patch_order)
    curves = draw_curves(out, recipe.name)
    write_family(
        out / "family",
        manifest,
        bank,
        teacher_folder=teacher_folder,
        card=model_card(family, manifest, [curves.name]),
        plots=[curves],
        dtype=torch_dtype(recipe.student.stored_dtype),
        replace=True,
    )


def _silent(_line: str) -> None:
    """What the main process says is said for all."""
