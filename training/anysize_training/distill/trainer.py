"""The run: one loop over optimizer steps that distils the teacher into the student (paper, 2.2)."""

import math
import time
from dataclasses import asdict, replace
from pathlib import Path

from torch import nn
from tqdm import tqdm

from anysize.errors import DivergedError
from anysize.family.bank import Bank
from anysize_training.distill.checkpoint import (
    Identity,
    Progress,
    latest_checkpoint,
    read_progress,
    restore_moments,
    restore_weights,
    save_checkpoint,
)
from anysize_training.distill.corpus import Corpus
from anysize_training.distill.evaluation import HeldOut
from anysize_training.distill.journal import Journal
from anysize_training.distill.losses import Terms
from anysize_training.distill.optimizer import learning_rate, make_optimizer, trained_parameters
from anysize_training.distill.processes import Processes, whole
from anysize_training.distill.recipe import Recipe
from anysize_training.distill.signals import stop_signals
from anysize_training.distill.step import TrainStep


class Trainer:
    """Owns the student's parameters while they are trained.

    Args:
        recipe: everything that decides the run.
        bank: teacher and student; the student is trained in place. A sharded run takes both apart for good.
        corpus: the training text.
        folder: where checkpoints and journals go.
        processes: that run it together.
        identity: what this run is, for its checkpoints.
    """

    def __init__(
        self,
        recipe: Recipe,
        bank: Bank,
        corpus: Corpus,
        folder: Path,
        *,
        processes: Processes,
        identity: Identity,
    ) -> None:
        self.recipe = recipe
        self._folder = folder
        self._processes = processes
        names = trained_parameters(bank, recipe).keys()
        for name, parameter in bank.student.named_parameters():
            parameter.requires_grad_(name in names)
        self._step = TrainStep(recipe, bank, corpus.training, processes)
        # Sharding puts new parameters in the place of the old ones.
        parameters = dict(bank.student.named_parameters())
        self._trained = {name: parameters[name] for name in names}
        self._optimizer = make_optimizer(recipe.optimizer, self._trained.values())
        self._held_out = None
        if corpus.held_out is not None:
            self._held_out = HeldOut(
                bank,
                recipe.patch_order,
                corpus.held_out,
                rows_at_once=recipe.run.micro_batch_size,
                processes=processes,
                bfloat16=recipe.run.dtype == "bfloat16",
            )
        self._progress = Progress(identity)

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self._folder / "checkpoints"

    def resume(self) -> int:
        """Go back to the newest checkpoint, if there is one.

        Returns:
            The step from which the run goes on.

        Raises:
            SettingsError: the checkpoint belongs to another run.
        """
        checkpoint = latest_checkpoint(self.checkpoints)
        if checkpoint is None:
            return 0
        self._progress = read_progress(checkpoint, self._progress.identity)
        restore_weights(checkpoint, self._trained)
        restore_moments(checkpoint, self._trained, self._optimizer)
        return self._progress.step

    def train(self) -> Progress:
        """Run to the last step, or to the next step border after SIGTERM or SIGINT.

        Raises:
            DivergedError: a loss or a gradient is not finite; the step's weights were not changed.
        """
        run, processes = self.recipe.run, self._processes
        if processes.is_main:
            self._folder.mkdir(parents=True, exist_ok=True)
        started_s, before_s = time.monotonic(), self._progress.seconds
        journal = Journal(self._folder, from_step=self._progress.step) if processes.is_main else None
        bar = tqdm(
            total=run.steps, initial=self._progress.step, desc="distilling", unit="step", disable=not processes.is_main
        )
        try:
            with bar, stop_signals() as stop:
                while self._progress.step < run.steps and not processes.agree(bool(stop)):
                    step, step_started_s = self._progress.step, time.monotonic()
                    terms, tokens, gradient_norm = self.optimize(step)
                    rate = tokens / (time.monotonic() - step_started_s)
                    if journal is not None:
                        figures = {"learning_rate": learning_rate(self.recipe.optimizer, step, run.steps)}
                        figures |= {"gradient_norm": gradient_norm, "tokens_per_s": rate}
                        journal.step(step, asdict(terms) | figures)
                    bar.set_postfix_str(f"loss {terms.total:.3f} {rate:.0f} tok/s")
                    bar.update()
                    is_last = step + 1 == run.steps
                    if is_last or (run.evaluate_every and (step + 1) % run.evaluate_every == 0):
                        self._evaluate(step, journal)
                    self._progress = replace(
                        self._progress,
                        step=step + 1,
                        tokens=self._progress.tokens + tokens,
                        seconds=before_s + time.monotonic() - started_s,
                    )
                    if is_last or (step + 1) % run.checkpoint_every == 0:
                        self._save(journal)
                if self._progress.step < run.steps and self._progress.step % run.checkpoint_every:
                    self._save(journal)
        finally:
            if journal is not None:
                journal.close()
        return self._progress

    def optimize(self, step: int) -> tuple[Terms, int, float]:
        """Do one optimizer step.

        Returns:
            The terms, the number of counted tokens, and the norm of the gradient before clipping.

        Raises:
            DivergedError: a loss or a gradient is not finite; the weights were not changed.
        """
        settings = self.recipe.optimizer
        terms, tokens = self._step.run(step)
        self._processes.sum_gradients(self._trained.values())
        gradient_norm = whole(nn.utils.clip_grad_norm_(self._trained.values(), settings.max_grad_norm)).item()
        if not math.isfinite(gradient_norm):
            raise DivergedError(
                f"step {step}: the norm of the gradient is {gradient_norm}, with a loss of {terms.total}; begin again "
                "with a smaller learning rate. Checkpoints from before are untouched"
            )
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(settings, step, self.recipe.run.steps)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return terms, tokens, gradient_norm

    def _evaluate(self, step: int, journal: Journal | None) -> None:
        if self._held_out is None:
            return
        evaluation = self._held_out.evaluate(self._step.models)
        if journal is not None:
            journal.evaluation(step, asdict(evaluation))

    def _save(self, journal: Journal | None) -> None:
        if journal is not None:
            journal.flush()
        save_checkpoint(
            self.checkpoints, self._progress, self._trained, self._optimizer, is_main=self._processes.is_main
        )
