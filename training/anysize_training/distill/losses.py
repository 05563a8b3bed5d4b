"""Equation 1: cross entropy, KL divergence to the teacher, and the cosine distance at every block end.

All terms are means over counted tokens: they are sums here, divided by the counted tokens of the whole optimizer step
over all processes, so that neither micro-batches nor padding nor packing change anything. Logits over the whole
vocabulary exist for one chunk of tokens at a time: each chunk is run forward and backward before the next, and leaves
only its gradient with respect to the hidden states.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anysize_training.distill.alignment import cosine_distance
from anysize_training.distill.recipe import Objective

# Of one tensor of logits. The C library keeps blocks below 32 MiB; larger ones it asks the kernel for, page by page.
_CHUNK_BYTES = {"cpu": 24 << 20, "cuda": 256 << 20}


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of Equation 1 for one batch, each a mean over tokens; None for a term of weight 0, which is not run.

    Attributes:
        cross_entropy: in nats.
        kl: tau^2 KL(teacher || student), in nats.
        cosine: the cosine distances of all pairs, summed.
        total: with the weights of the objective.
    """

    cross_entropy: float | None
    kl: float | None
    cosine: float | None
    total: float


def weighted_terms(sums: list[float], objective: Objective, positions: int) -> Terms:
    """The terms from their values, M and the weights of the objective (paper, Equation 1 and Table 2)."""
    weights = (objective.cross_entropy, objective.kl, objective.cosine / (positions + 1))
    named = [value if weight else None for value, weight in zip(sums, weights, strict=True)]
    return Terms(*named, total=sum(weight * value for weight, value in zip(weights, sums, strict=True) if weight))


def head_loss_backward(
    hidden_BLD: Tensor,
    head: nn.Linear,
    teacher_hidden_BLD: Tensor,
    teacher_head: nn.Module,
    targets_BL: Tensor,
    is_counted_BL: Tensor,
    objective: Objective,
    tokens: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy and KL divergence in chunks, with their gradients.

    Args:
        hidden_BLD: the student's hidden states after its final norm; treated as a leaf.
        head: the student's LM head; gradients are accumulated in its parameters.
        teacher_hidden_BLD: the teacher's hidden states after its final norm; not read where the KL weight is 0.
        teacher_head: the teacher's LM head.
        targets_BL: the next tokens.
        is_counted_BL: the tokens whose loss is taken.
        objective: weights and temperature.
        tokens: the counted tokens of the whole optimizer step, by which sums are divided.

    Returns:
        The two terms, unweighted, divided by `tokens`, and the gradient of their weighted sum with respect to
        `hidden_BLD`.
    """
    counted_T = is_counted_BL.flatten()
    hidden_TD = hidden_BLD.detach().flatten(0, 1)[counted_T]
    gradient_TD = torch.zeros_like(hidden_TD)
    cross_entropy = kl = hidden_TD.new_zeros((), dtype=torch.float32)
    if objective.cross_entropy or objective.kl:
        teacher_TD = teacher_hidden_BLD.detach().flatten(0, 1)[counted_T]
        targets_T = targets_BL.flatten()[counted_T]
        size = max(1, _CHUNK_BYTES[hidden_TD.device.type] // (4 * head.out_features))
        chunks = (tensor.split(size) for tensor in (hidden_TD, teacher_TD, targets_T, gradient_TD))
        with torch.no_grad():
            for hidden_CD, teacher_CD, targets_C, gradient_CD in zip(*chunks, strict=True):
                teacher_CV = teacher_head(teacher_CD).float() if objective.kl else None
                logits_CV = head(hidden_CD)
                chunk_ce, chunk_kl, slope_CV = _loss_and_slope(logits_CV.float(), teacher_CV, targets_C, objective)
                gradient_CD.copy_(_head_backward(head, hidden_CD, slope_CV.div_(tokens).to(logits_CV.dtype)))
                cross_entropy = cross_entropy + chunk_ce / tokens
                kl = kl + chunk_kl / tokens
    everywhere_TD = torch.zeros_like(hidden_BLD).flatten(0, 1)
    everywhere_TD[counted_T] = gradient_TD
    return cross_entropy, kl, everywhere_TD.view_as(hidden_BLD)


def cosine_loss(student_ends: list[Tensor], teacher_ends: list[Tensor], is_counted_BL: Tensor, tokens: int) -> Tensor:
    """The sum over pairs of the mean cosine distance (paper, Equation 1, unweighted).

    Args:
        student_ends: the student's aligned hidden states, each `[B, L, D]`.
        teacher_ends: the teacher's.
        is_counted_BL: the tokens whose distance is taken.
        tokens: by which sums are divided.
    """
    distances = [
        cosine_distance(ours, theirs, is_counted_BL) for ours, theirs in zip(student_ends, teacher_ends, strict=True)
    ]
    return torch.stack(distances).sum() / tokens


def _loss_and_slope(
    logits_CV: Tensor, teacher_CV: Tensor | None, targets_C: Tensor, objective: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of both terms over a chunk, and the derivative of their weighted sum with respect to the logits.

    With p and q the distributions of student and teacher at temperature tau, the derivative of tau^2 KL(q || p) is
    tau (p - q), and that of the cross entropy is p - one_hot(target) at temperature 1. Written out, because autograd
    would hold four more tensors of the size of the logits.
    """
    places_C = torch.arange(len(targets_C), device=targets_C.device)
    tau = objective.temperature
    log_p_CV = F.log_softmax(logits_CV, dim=-1)
    cross_entropy = -log_p_CV[places_C, targets_C].sum()
    if teacher_CV is None:
        slope_CV = log_p_CV.exp_().mul_(objective.cross_entropy)
        kl = cross_entropy.new_zeros(())
    else:
        log_q_CV = F.log_softmax(teacher_CV if tau == 1 else teacher_CV / tau, dim=-1)
        q_CV = log_q_CV.exp()
        if tau == 1:
            kl = log_q_CV.sub_(log_p_CV).mul_(q_CV).sum()
            slope_CV = log_p_CV.exp_().mul_(objective.cross_entropy + objective.kl)
        else:
            log_softer_CV = F.log_softmax(logits_CV / tau, dim=-1)
            kl = tau**2 * log_q_CV.sub_(log_softer_CV).mul_(q_CV).sum()
            slope_CV = log_p_CV.exp_().mul_(objective.cross_entropy)
            slope_CV.add_(log_softer_CV.exp_(), alpha=objective.kl * tau)
        slope_CV.sub_(q_CV, alpha=objective.kl * tau)
    slope_CV[places_C, targets_C] -= objective.cross_entropy
    return cross_entropy, kl, slope_CV


def _head_backward(head: nn.Linear, hidden_CD: Tensor, slope_CV: Tensor) -> Tensor:
    """The gradient with respect to the head's input; that of its weight is added where it is trained.

    Autograd would make a matrix of the head's size for every chunk and add it up afterwards.
    """
    weight_VD = head.weight
    if weight_VD.requires_grad:
        if weight_VD.grad is None:
            weight_VD.grad = torch.zeros_like(weight_VD)
        if slope_CV.dtype == weight_VD.dtype:
            weight_VD.grad.addmm_(slope_CV.T, hidden_CD)
        else:
            weight_VD.grad.add_(slope_CV.T @ hidden_CD.to(slope_CV.dtype))
    return slope_CV @ weight_VD.to(slope_CV.dtype)
