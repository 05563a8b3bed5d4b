"""What is trained, and AdamW with its schedule (paper, Table 2)."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from anysize.family.bank import Bank
from anysize.family.delta import own_tensors
from anysize_training.distill.recipe import Optimizer, Recipe


def trained_parameters(bank: Bank, recipe: Recipe) -> dict[str, nn.Parameter]:
    """The parameters that a run changes: a `delta` student's own, or all of a `full` student's."""
    if recipe.student.kind == "delta":
        return own_tensors(bank.student, bank.teacher)
    return dict(bank.student.named_parameters())


def make_optimizer(settings: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW over some parameters; weight decay acts on all of them, norms included."""
    return torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def learning_rate(settings: Optimizer, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to the final ratio (paper, Table 2)."""
    warmup = math.ceil(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    floor = settings.final_learning_rate_ratio
    return settings.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
