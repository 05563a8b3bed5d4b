"""Distillation as it is usually written, to be compared with: a Trainer subclass with a dense loss.

The shape of the paper's published code: all hidden states and all logits of both models, one loss, one autograd graph
(paper, Equation 1; the pairs and their last one after the final norm are those of the pipeline here, so that both
contenders compute the same).
"""

import tempfile
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from anysize.family.bank import Bank
from anysize_training.bench.workload import Workload
from anysize_training.distill.alignment import block_ends
from anysize_training.distill.batches import Sequences
from anysize_training.distill.optimizer import trained_parameters
from anysize_training.distill.recipe import Objective


class PlainTrainer(Trainer):
    """transformers' Trainer with Equation 1 written down densely.

    Args:
        bank: teacher and student.
        objective: the weights.
    """

    def __init__(self, bank: Bank, objective: Objective, **keywords: Any) -> None:
        super().__init__(model=bank.student, **keywords)
        self._teacher = bank.teacher
        self._ends = block_ends(bank.blocks)
        self._objective = objective

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002  (Trainer passes it; rows are of one length)
    ) -> Tensor | tuple[Tensor, Any]:
        """Equation 1 of one batch."""
        objective, targets_BL = self._objective, inputs.pop("labels")
        ours = model(**inputs, output_hidden_states=True)
        with torch.no_grad():
            theirs = self._teacher(**inputs, output_hidden_states=True)
        loss = objective.cross_entropy * F.cross_entropy(ours.logits.flatten(0, 1), targets_BL.flatten())
        loss = loss + objective.kl * F.kl_div(
            F.log_softmax(ours.logits, dim=-1).flatten(0, 1),
            F.softmax(theirs.logits, dim=-1).flatten(0, 1),
            reduction="batchmean",
        )
        for ours_BLD, end in zip(ours.hidden_states[1:], self._ends, strict=True):
            similarity_BL = F.cosine_similarity(ours_BLD, theirs.hidden_states[end + 1], dim=-1)
            loss = loss + objective.cosine / (len(self._ends) + 1) * (1 - similarity_BL).mean()
        return (loss, ours) if return_outputs else loss


def train_plainly(workload: Workload) -> tuple[float, list[float]]:
    """Run the workload with `PlainTrainer`.

    Returns:
        Seconds of the timed steps, and the loss of every step.
    """
    bank, corpus = workload.load()
    recipe = workload.recipe()
    trained = trained_parameters(bank, recipe)
    for name, parameter in bank.student.named_parameters():
        parameter.requires_grad_(name in trained)
    clock, optimizer = _Clock(), recipe.optimizer
    with tempfile.TemporaryDirectory() as folder:
        trainer = PlainTrainer(
            bank,
            recipe.objective,
            train_dataset=_Rows(corpus.training, (workload.steps + 1) * workload.rows),
            callbacks=[clock],
            args=TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=workload.rows,
                max_steps=workload.steps + 1,
                learning_rate=optimizer.learning_rate,
                lr_scheduler_type="cosine",
                adam_beta1=optimizer.betas[0],
                adam_beta2=optimizer.betas[1],
                weight_decay=optimizer.weight_decay,
                max_grad_norm=optimizer.max_grad_norm,
                train_sampling_strategy="sequential",
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=False,
            ),
        )
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return clock.ended_s[-1] - clock.ended_s[0], losses


class _Rows(Dataset[dict[str, Tensor]]):
    def __init__(self, sequences: Sequences, count: int) -> None:
        self._sequences = sequences
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        row = self._sequences.rows(torch.tensor([number % len(self._sequences)]))
        return {"input_ids": row.inputs_BL[0], "labels": row.targets_BL[0]}


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.ended_s: list[float] = []

    def on_step_end(self, *_arguments: Any, **_keywords: Any) -> None:
        self.ended_s.append(time.monotonic())
