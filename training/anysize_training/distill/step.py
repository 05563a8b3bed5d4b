"""One optimizer step's forward and backward passes: rows in, gradients and the terms of Equation 1 out."""

import math

import torch
from torch import Tensor

from anysize.errors import DivergedError
from anysize.family.bank import Bank
from anysize_training.distill.alignment import HiddenStates, block_ends
from anysize_training.distill.batches import Batch, Sequences
from anysize_training.distill.gates import use_lean_mlps
from anysize_training.distill.losses import Terms, cosine_loss, head_loss_backward, weighted_terms
from anysize_training.distill.processes import Processes
from anysize_training.distill.recipe import Recipe


class TrainStep:
    """Runs teacher and student over the rows of a step, micro-batch after micro-batch.

    Args:
        recipe: objective, precision and micro-batch size.
        bank: teacher and student; where the run is sharded, both are.
        sequences: the rows.
        processes: which of the rows are this process's.
    """

    def __init__(self, recipe: Recipe, bank: Bank, sequences: Sequences, processes: Processes) -> None:
        self._recipe = recipe
        self._sequences = sequences
        self._processes = processes
        self._positions = bank.blocks.student_layers
        use_lean_mlps(bank.student)
        architecture, objective = bank.architecture, recipe.objective
        # Without the cosine term no hidden state but the last is wanted.
        aligned = range(self._positions) if objective.cosine else ()
        ends = block_ends(bank.blocks) if objective.cosine else ()
        self._teacher = HiddenStates(architecture, bank.teacher, ends, objective)
        self._student = HiddenStates(
            architecture,
            bank.student,
            aligned,
            objective,
            checkpointing=recipe.run.activation_checkpointing,
        )
        processes.shard(self._teacher)
        processes.shard(self._student)

    @property
    def models(self) -> tuple[HiddenStates, HiddenStates]:
        """Teacher and student, as they are run."""
        return self._teacher, self._student

    def run(self, step: int) -> tuple[Terms, int]:
        """Accumulate the gradients of a step in the student's parameters.

        Args:
            step: counted from 0.

        Returns:
            The terms and the number of counted tokens, over all processes.

        Raises:
            DivergedError: a term is not finite; names the rows that made it.
        """
        run, processes = self._recipe.run, self._processes
        numbers_B = self._sequences.row_numbers(step, run.batch_size)
        tokens = self._sequences.rows(numbers_B).tokens
        parts = processes.share(numbers_B).split(run.micro_batch_size)
        sums = torch.stack([self._micro_step(self._sequences.rows(part), tokens) for part in parts])
        self._refuse_infinite(step, parts, sums.tolist())
        total = sums.sum(dim=0)
        processes.sum([total])
        return weighted_terms(total.tolist(), self._recipe.objective, self._positions), tokens

    def _micro_step(self, batch: Batch, tokens: int) -> Tensor:
        """Backward through one micro-batch; the three unweighted terms, divided by the tokens of the step."""
        objective, device = self._recipe.objective, self._processes.device
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._recipe.run.dtype == "bfloat16"):
            student_BLD, student_ends = self._student(batch.inputs_BL, batch.positions_BL)
            if objective.kl or objective.cosine:
                with torch.no_grad():
                    teacher_BLD, teacher_ends = self._teacher(batch.inputs_BL, batch.positions_BL)
            else:
                teacher_BLD, teacher_ends = student_BLD, []
            cross_entropy, kl, gradient_BLD = head_loss_backward(
                student_BLD,
                self._student.head,
                teacher_BLD,
                self._teacher.head,
                batch.targets_BL,
                batch.is_counted_BL,
                objective,
                tokens,
            )
        self._processes.release(self._teacher)
        cosine = cross_entropy.new_zeros(())
        roots, slopes = [student_BLD], [gradient_BLD]
        if objective.cosine:
            cosine = cosine_loss(student_ends, teacher_ends, batch.is_counted_BL, tokens)
            roots.append(objective.cosine / (self._positions + 1) * cosine)
            slopes.append(torch.ones_like(cosine))
        torch.autograd.backward(roots, slopes)
        return torch.stack([cross_entropy, kl, cosine.detach()])

    def _refuse_infinite(self, step: int, parts: tuple[Tensor, ...], sums: list[list[float]]) -> None:
        where = _first_infinite(parts, sums)
        # All processes stop together: one that went on would wait for the others for ever.
        if self._processes.agree(where is not None):
            raise DivergedError(
                f"step {step}: {where or 'another process met a loss that is no number'}; look at these rows, or begin "
                "again with a smaller learning rate. Checkpoints from before are untouched"
            )


def _first_infinite(parts: tuple[Tensor, ...], sums: list[list[float]]) -> str | None:
    for part, values in zip(parts, sums, strict=True):
        for name, value in zip(("cross entropy", "KL divergence", "cosine distance"), values, strict=True):
            if not math.isfinite(value):
                return f"the {name} of rows {part.tolist()} is {value}"
    return None
