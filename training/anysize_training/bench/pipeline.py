"""Distillation as this pipeline does it, for the training benchmark."""

import tempfile
import time
from pathlib import Path

from anysize_training.bench.workload import Workload
from anysize_training.distill.checkpoint import Identity
from anysize_training.distill.processes import Processes
from anysize_training.distill.trainer import Trainer


def train_with_pipeline(workload: Workload) -> tuple[float, list[float]]:
    """Run the workload.

    Returns:
        Seconds of the timed steps, and the loss of every step.
    """
    bank, corpus = workload.load()
    recipe = workload.recipe()
    processes = Processes(recipe.run, next(bank.teacher.parameters()).device)
    with tempfile.TemporaryDirectory() as folder:
        identity = Identity(recipe="", text=corpus.sha256, teacher="")
        trainer = Trainer(recipe, bank, corpus, Path(folder), processes=processes, identity=identity)
        ended_s, losses = [], []
        for step in range(workload.steps + 1):
            losses.append(trainer.optimize(step)[0].total)
            ended_s.append(time.monotonic())
    return ended_s[-1] - ended_s[0], losses
