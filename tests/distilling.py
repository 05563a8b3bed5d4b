"""Tiny distillation runs, and Equation 1 written down plainly to compare them with."""

import os
import re
from pathlib import Path

import pytest
import torch
from fakes import tiny_bank
from torch.nn import functional as F

from anysize.errors import DivergedError
from anysize.family.bank import Bank
from anysize.family.manifest import FolderTeacher
from anysize_training.distill.batches import Batch, Packing, Sequences
from anysize_training.distill.corpus import Corpus
from anysize_training.distill.initialise import initial_bank
from anysize_training.distill.optimizer import trained_parameters
from anysize_training.distill.processes import Processes
from anysize_training.distill.provenance import identity_of
from anysize_training.distill.recipe import Recipe
from anysize_training.distill.step import TrainStep
from anysize_training.distill.trainer import Trainer

KEPT = (0, 2, 5)


def recipe(**overrides) -> Recipe:
    values = {
        "name": "tiny",
        "teacher": "somewhere",
        "student": {"kind": "full", "rank": 4, "initialise": {"method": "layers", "layers": KEPT}},
        "data": {"source": "text.txt", "sequence_length": 12},
        "optimizer": {"learning_rate": 1e-3},
        "run": {"steps": 6, "batch_size": 4, "micro_batch_size": 2, "checkpoint_every": 2},
    }
    for section, changes in overrides.items():
        values[section] = values[section] | changes if isinstance(changes, dict) and section in values else changes
    return Recipe.model_validate(values)


def text(rows: int = 24, *, packing: Packing = "stream", documents: int = 30, held_out: int = 0) -> Corpus:
    """Random tokens in documents of random lengths, packed into rows of 12 inputs."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(3, 250, (rows * 13,), generator=generator, dtype=torch.int32)
    borders = torch.randperm(rows * 13 - 2, generator=generator)[: documents - 1].sort().values + 1
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), borders])
    whole = Sequences(tokens, starts, length=12, packing=packing)
    held = Sequences(tokens[: held_out * 13], starts[starts < held_out * 13], length=12, packing=packing)
    return Corpus(whole, held if held_out else None, "0" * 64)


def trainer_of(made: Recipe, bank: Bank, corpus: Corpus, folder: Path) -> Trainer:
    processes = Processes(made.run, torch.device("cpu"))
    identity = identity_of(made, FolderTeacher(fingerprint="1" * 64), corpus, None)
    return Trainer(made, bank, corpus, folder, processes=processes, identity=identity)


def fresh_bank(made: Recipe, architecture: str = "llama", *, tied: bool = True) -> Bank:
    bank = tiny_bank(architecture, tied=tied)
    return initial_bank(made.student, bank.teacher, bank.architecture, seed=0)


def weights(bank: Bank, made: Recipe) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trained_parameters(bank, made).items()}


def batch_of(corpus: Corpus, step: int, size: int) -> Batch:
    return corpus.training.rows(corpus.training.row_numbers(step, size))


def dense_gradients(bank: Bank, made: Recipe, batch: Batch) -> dict[str, torch.Tensor]:
    """Equation 1 by plain transformers: all hidden states, all logits, one autograd graph."""
    objective, blocks = made.objective, bank.blocks
    inputs, targets = batch.inputs_BL, batch.targets_BL
    student = bank.student
    ours = student(inputs, output_hidden_states=True)
    with torch.no_grad():
        theirs = bank.teacher(inputs, output_hidden_states=True)
    # hidden_states[-1] is after the final norm; Equation 1 wants the layer's own output, so it is recomputed by hand.
    last_ours, last_theirs = _before_norm(student, inputs), _before_norm(bank.teacher, inputs).detach()
    states_ours = [*ours.hidden_states[1:-1], last_ours]
    states_theirs = [*theirs.hidden_states[1:-1], last_theirs]
    ends = [following - 1 for following in (*blocks.kept[1:], blocks.teacher_layers)]
    cosine = sum(
        (1 - F.cosine_similarity(states_ours[i], states_theirs[end], dim=-1)).mean() for i, end in enumerate(ends)
    )
    ce = F.cross_entropy(ours.logits.flatten(0, 1), targets.flatten())
    kl = F.kl_div(
        ours.logits.log_softmax(-1).flatten(0, 1),
        theirs.logits.softmax(-1).flatten(0, 1),
        reduction="batchmean",
    )
    loss = objective.cross_entropy * ce + objective.kl * kl + objective.cosine / (blocks.student_layers + 1) * cosine
    parameters = trained_parameters(bank, made)
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()), allow_unused=True), strict=True))


def _before_norm(model, inputs):
    caught = []
    norm = next(module for name, module in model.named_modules() if name.split(".")[-1] in NORMS)
    handle = norm.register_forward_pre_hook(lambda _module, arguments: caught.append(arguments[0]))
    model(inputs)
    handle.remove()
    return caught[0]


NORMS = {"norm", "final_layer_norm", "ln_f"}


def run_recipe(recipe: Path, out: Path, parallel: str = "replicate", *, resume: bool = False) -> None:
    """A whole distillation, as the command runs it."""
    from anysize_training.commands.distill import run_distillation

    assert run_distillation(str(recipe), out, [f"run.parallel={parallel}"], resume=resume)


def run_with_poison(recipe: Path, out: Path) -> None:
    """A distillation in which the second process's part of step 2 is no number; every process must end it cleanly."""
    step, calls = TrainStep._micro_step, []

    def poisoned(self: TrainStep, batch: Batch, tokens: int) -> torch.Tensor:
        calls.append(1)
        terms = step(self, batch, tokens)
        return terms * torch.nan if self._processes.rank == 1 and len(calls) == 5 else terms

    TrainStep._micro_step = poisoned
    words = "rows [" if os.environ["RANK"] == "1" else "another process met"
    with pytest.raises(DivergedError, match=re.escape(words)):
        run_recipe(recipe, out)
