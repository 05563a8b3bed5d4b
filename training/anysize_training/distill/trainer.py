"""The run: one loop over optimizer steps that distils the teacher into the student (paper, 2.2)."""

import hashlib
import json
import math
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from anysize.errors import DivergedError, SettingsError
from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.delta import own_tensors
from anysize.family.variant import Variant
from anysize_training.distill.alignment import block_ends, recorded
from anysize_training.distill.checkpoint import (
    Progress,
    latest_checkpoint,
    read_progress,
    restore_checkpoint,
    save_checkpoint,
)
from anysize_training.distill.data import Sequences
from anysize_training.distill.losses import Terms, cosine_loss, head_loss_backward
from anysize_training.distill.recipe import Optimizer, Recipe


class Trainer:
    """Owns the student's parameters while they are trained.

    Args:
        recipe: everything that decides the run.
        bank: teacher and student; the student is trained in place.
        sequences: the training text.
        folder: where checkpoints and `log.jsonl` go.
    """

    def __init__(self, recipe: Recipe, bank: Bank, sequences: Sequences, folder: Path) -> None:
        self.recipe = recipe
        self.bank = bank
        self.sequences = sequences
        self.folder = folder
        positions = bank.blocks.student_layers
        self._teacher = assemble(bank, Variant.teacher(positions))
        self._student = assemble(bank, Variant.student(positions))
        self._device = next(bank.teacher.parameters()).device
        self._trained = trained_parameters(bank, recipe)
        for parameter in self._trained.values():
            parameter.requires_grad_()
        settings = recipe.optimizer
        self._optimizer = torch.optim.AdamW(
            self._trained.values(),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
        )
        self._progress = Progress(step=0, tokens=0, seconds=0.0, recipe_sha256=recipe_sha256(recipe))

    def resume(self) -> int:
        """Go back to the newest checkpoint, if there is one.

        Returns:
            The step from which the run goes on.

        Raises:
            SettingsError: the checkpoint belongs to another recipe.
        """
        checkpoint = latest_checkpoint(self.folder / "checkpoints")
        if checkpoint is None:
            return 0
        progress = read_progress(checkpoint)
        if progress.recipe_sha256 != self._progress.recipe_sha256:
            raise SettingsError(f"{checkpoint} was made with another recipe; resume with {self.folder / 'recipe.json'}")
        restore_checkpoint(checkpoint, self._trained, self._optimizer)
        self._progress = progress
        return progress.step

    def train(self) -> Progress:
        """Run to the last step, or to the next step border after SIGTERM or SIGINT.

        Raises:
            DivergedError: a loss or a gradient is not finite; the step's weights were not changed.
        """
        run = self.recipe.run
        started, before = time.monotonic(), self._progress.seconds
        log = _Log(self.folder / "log.jsonl", from_step=self._progress.step)
        bar = tqdm(total=run.steps, initial=self._progress.step, desc="distilling", unit="step", smoothing=0.1)
        with bar, log, _stop_signals() as stop:
            while self._progress.step < run.steps and not stop:
                step_started = time.monotonic()
                step = self._progress.step
                terms, gradient_norm = self._step(step)
                tokens = run.batch_size * self.sequences.tokens_NL.shape[1] - run.batch_size
                self._progress = Progress(
                    step=step + 1,
                    tokens=self._progress.tokens + tokens,
                    seconds=before + time.monotonic() - started,
                    recipe_sha256=self._progress.recipe_sha256,
                )
                rate = tokens / (time.monotonic() - step_started)
                log.write({"step": step, **asdict(terms), "gradient_norm": gradient_norm, "tokens_per_s": rate})
                bar.set_postfix_str(
                    f"ce {terms.cross_entropy:.3f} kl {terms.kl:.3f} cos {terms.cosine:.3f} {rate:.0f} tok/s"
                )
                bar.update()
                if (step + 1) % run.checkpoint_every == 0 and step + 1 < run.steps:
                    self._save()
            if self._progress.step:
                self._save()
        return self._progress

    def _save(self) -> None:
        save_checkpoint(self.folder / "checkpoints", self._progress, self._trained, self._optimizer)

    def _step(self, step: int) -> tuple[Terms, float]:
        run, objective = self.recipe.run, self.recipe.objective
        inputs_BL, targets_BL = self.sequences.batch(step, run.batch_size)
        tokens = targets_BL.numel()
        terms = torch.zeros(3)
        micro_batches = zip(inputs_BL.split(run.micro_batch_size), targets_BL.split(run.micro_batch_size), strict=True)
        for inputs, targets in micro_batches:
            terms += self._micro_step(inputs.to(self._device), targets.to(self._device), tokens).cpu()
        cross_entropy, kl, cosine = terms.tolist()
        pairs = self.bank.blocks.student_layers + 1
        total = objective.cross_entropy * cross_entropy + objective.kl * kl + objective.cosine / pairs * cosine
        gradient_norm = nn.utils.clip_grad_norm_(self._trained.values(), self.recipe.optimizer.max_grad_norm).item()
        if not (math.isfinite(total) and math.isfinite(gradient_norm)):
            raise DivergedError(
                f"step {step}: loss {total}, gradient norm {gradient_norm}; try a smaller learning rate"
            )
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe.optimizer, step, run.steps)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return Terms(cross_entropy, kl, cosine, total), gradient_norm

    def _micro_step(self, inputs_BL: Tensor, targets_BL: Tensor, tokens: int) -> Tensor:
        architecture, objective = self.bank.architecture, self.recipe.objective
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.recipe.run.dtype == "bfloat16"):
            with torch.no_grad():
                teacher_BLD, teacher_ends = self._hidden(self._teacher, inputs_BL, block_ends(self.bank.blocks))
            everywhere = range(self.bank.blocks.student_layers)
            student_BLD, student_ends = self._hidden(self._student, inputs_BL, everywhere)
            cross_entropy, kl, gradient_BLD = head_loss_backward(
                student_BLD,
                architecture.head_of(self._student),
                teacher_BLD,
                architecture.head_of(self._teacher),
                targets_BL,
                objective,
                tokens,
            )
        cosine = cosine_loss(student_ends, teacher_ends, tokens)
        weighted = objective.cosine / (self.bank.blocks.student_layers + 1) * cosine
        torch.autograd.backward([student_BLD, weighted], [gradient_BLD, None])
        return torch.stack([cross_entropy, kl, cosine.detach()])

    def _hidden(self, model: PreTrainedModel, inputs_BL: Tensor, wanted: Iterable[int]) -> tuple[Tensor, list[Tensor]]:
        architecture = self.bank.architecture
        with recorded(architecture.layers_of(model), tuple(wanted)) as ends:
            hidden_BLD = architecture.backbone_of(model)(input_ids=inputs_BL, use_cache=False).last_hidden_state
        return hidden_BLD, ends


def trained_parameters(bank: Bank, recipe: Recipe) -> dict[str, nn.Parameter]:
    """The parameters that a run changes: a `delta` student's own, or all of a `full` student's."""
    if recipe.student.kind == "delta":
        return own_tensors(bank.student, bank.teacher)
    return dict(bank.student.named_parameters())


def learning_rate(optimizer: Optimizer, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to the final ratio (paper, Table 2)."""
    warmup = math.ceil(optimizer.warmup_ratio * steps)
    if step < warmup:
        return optimizer.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    floor = optimizer.final_learning_rate_ratio
    return optimizer.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def recipe_sha256(recipe: Recipe) -> str:
    """A hash of all values of a recipe."""
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()


class _Log:
    """`log.jsonl`, one line a step; lines of steps that are run again are dropped."""

    def __init__(self, path: Path, *, from_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.write_text("".join(f"{line}\n" for line in lines[:from_step]), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, line: dict[str, float]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Yields a list that is empty until SIGTERM or SIGINT comes."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _frame: received.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
