"""Equation 1: cross entropy, KL divergence to the teacher, and the cosine distance at every block end.

All terms are means over tokens: they are sums here, divided by the tokens of the whole optimizer step, so that
splitting a batch into micro-batches changes nothing. Logits over the whole vocabulary exist for one chunk of tokens at
a time: each chunk is run forward and backward before the next, and leaves only its gradient with respect to the hidden
states.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anysize_training.distill.alignment import cosine_distance
from anysize_training.distill.recipe import Objective

_CHUNK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of Equation 1 for one batch, each a mean over tokens.

    Attributes:
        cross_entropy: in nats.
        kl: tau^2 KL(teacher || student), in nats.
        cosine: the M cosine distances, summed.
        total: with the weights of the objective.
    """

    cross_entropy: float
    kl: float
    cosine: float
    total: float


def head_loss_backward(
    hidden_BLD: Tensor,
    head: nn.Module,
    teacher_hidden_BLD: Tensor,
    teacher_head: nn.Module,
    targets_BL: Tensor,
    objective: Objective,
    tokens: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy and KL divergence in chunks, with their gradients.

    Args:
        hidden_BLD: the student's hidden states after its final norm; treated as a leaf.
        head: the student's LM head; gradients are accumulated in its parameters.
        teacher_hidden_BLD: the teacher's hidden states after its final norm.
        teacher_head: the teacher's LM head.
        targets_BL: the next tokens.
        objective: weights and temperature.
        tokens: the number of tokens in the whole optimizer step, by which sums are divided.

    Returns:
        The two terms, unweighted, divided by `tokens`, and the gradient of their weighted sum with respect to
        `hidden_BLD`.
    """
    width = hidden_BLD.shape[-1]
    hidden_TD = hidden_BLD.detach().reshape(-1, width)
    teacher_TD = teacher_hidden_BLD.detach().reshape(-1, width)
    gradient_TD = torch.empty_like(hidden_TD)
    cross_entropy = kl = hidden_TD.new_zeros((), dtype=torch.float32)
    chunks = zip(
        hidden_TD.split(_CHUNK_TOKENS),
        teacher_TD.split(_CHUNK_TOKENS),
        targets_BL.reshape(-1).split(_CHUNK_TOKENS),
        gradient_TD.split(_CHUNK_TOKENS),
        strict=True,
    )
    for hidden_CD, teacher_CD, targets_C, gradient_CD in chunks:
        leaf_CD = hidden_CD.detach().requires_grad_()
        chunk_ce, chunk_kl = _head_terms(head(leaf_CD), teacher_head, teacher_CD, targets_C, objective.temperature)
        ((objective.cross_entropy * chunk_ce + objective.kl * chunk_kl) / tokens).backward()
        assert leaf_CD.grad is not None
        gradient_CD.copy_(leaf_CD.grad)
        cross_entropy = cross_entropy + chunk_ce.detach() / tokens
        kl = kl + chunk_kl.detach() / tokens
    return cross_entropy, kl, gradient_TD.view_as(hidden_BLD)


def _head_terms(
    logits_CV: Tensor, teacher_head: nn.Module, teacher_CD: Tensor, targets_C: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logits_CV = logits_CV.float()
    cross_entropy = F.cross_entropy(logits_CV, targets_C, reduction="sum")
    with torch.no_grad():
        teacher_CV = F.log_softmax(teacher_head(teacher_CD).float() / temperature, dim=-1)
    student_CV = F.log_softmax(logits_CV / temperature, dim=-1)
    kl = F.kl_div(student_CV, teacher_CV, reduction="sum", log_target=True)
    return cross_entropy, temperature**2 * kl


def cosine_loss(student_ends: list[Tensor], teacher_ends: list[Tensor], tokens: int) -> Tensor:
    """The sum over block ends of the mean cosine distance (paper, Equation 1, unweighted).

    Args:
        student_ends: the student's hidden states after each layer, M of `[B, L, D]`.
        teacher_ends: the teacher's at the end of each block.
        tokens: by which sums are divided.
    """
    distances = [cosine_distance(ours, theirs) for ours, theirs in zip(student_ends, teacher_ends, strict=True)]
    return torch.stack(distances).sum() / tokens
