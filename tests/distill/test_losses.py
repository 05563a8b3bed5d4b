"""Equation 1 in chunks equals Equation 1 written down plainly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from anysize_training.distill import losses
from anysize_training.distill.losses import cosine_loss, head_loss_backward
from anysize_training.distill.recipe import Objective

WIDTH, VOCABULARY = 16, 50


def dense_terms(logits, teacher_logits, targets, objective: Objective):
    """The two head terms straight from the paper's definitions."""
    tau = objective.temperature
    log_student = (logits / tau).log_softmax(-1)
    teacher = (teacher_logits / tau).softmax(-1)
    kl = tau**2 * (teacher * (teacher.log() - log_student)).sum(-1).mean()
    ce = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
    return ce, kl


@settings(max_examples=25, deadline=None)
@given(
    chunk=st.integers(1, 40),
    temperature=st.floats(0.5, 4),
    kl=st.floats(0, 3),
    cross_entropy=st.floats(0, 2),
    seed=st.integers(0, 1000),
)
def test_chunked_values_and_gradients_equal_dense_autograd(chunk, temperature, kl, cross_entropy, seed) -> None:
    torch.manual_seed(seed)
    objective = Objective(cross_entropy=cross_entropy, kl=kl, temperature=temperature)
    head, teacher_head = nn.Linear(WIDTH, VOCABULARY, bias=False), nn.Linear(WIDTH, VOCABULARY, bias=False)
    hidden, theirs = torch.randn(2, 11, WIDTH), torch.randn(2, 11, WIDTH)
    targets = torch.randint(0, VOCABULARY, (2, 11))

    reference_hidden = hidden.clone().requires_grad_()
    ce, divergence = dense_terms(head(reference_hidden), teacher_head(theirs).detach(), targets, objective)
    (cross_entropy * ce + kl * divergence).backward()
    assert head.weight.grad is not None
    expected_head = head.weight.grad.clone()
    head.weight.grad = None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "_CHUNK_TOKENS", chunk)
        got_ce, got_kl, gradient = head_loss_backward(hidden, head, theirs, teacher_head, targets, objective, 22)

    torch.testing.assert_close(got_ce, ce.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got_kl, divergence.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, reference_hidden.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.weight.grad, expected_head, rtol=1e-4, atol=1e-6)
    assert teacher_head.weight.grad is None


def test_a_student_equal_to_its_teacher_has_no_divergence() -> None:
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    hidden = torch.randn(1, 5, WIDTH)
    _, kl, _ = head_loss_backward(hidden, head, hidden, head, torch.zeros(1, 5, dtype=torch.long), Objective(), 5)
    assert abs(kl.item()) < 1e-6


def test_the_alignment_loss_is_the_sum_of_mean_cosine_distances() -> None:
    ours = [torch.randn(2, 3, WIDTH, requires_grad=True) for _ in range(4)]
    theirs = [torch.randn(2, 3, WIDTH) for _ in range(4)]
    expected = sum((1 - F.cosine_similarity(a, b, dim=-1)).mean() for a, b in zip(ours, theirs, strict=True))
    torch.testing.assert_close(cosine_loss(ours, theirs, 6), expected)
