"""Equation 1 in chunks equals Equation 1 written down plainly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from anysize_training.distill import losses
from anysize_training.distill.losses import cosine_loss, head_loss_backward, weighted_terms
from anysize_training.distill.recipe import Objective

WIDTH, VOCABULARY = 16, 50


def dense_terms(logits, teacher_logits, targets, objective: Objective):
    """The two head terms of each token straight from the paper's definitions."""
    tau = objective.temperature
    log_student = (logits / tau).log_softmax(-1)
    teacher = (teacher_logits / tau).softmax(-1)
    kl = tau**2 * (teacher * (teacher.log() - log_student)).sum(-1)
    ce = -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    return ce, kl


@settings(max_examples=25, deadline=None)
@given(
    chunk=st.integers(1, 40),
    temperature=st.floats(0.5, 4),
    kl=st.floats(0, 3),
    cross_entropy=st.floats(0, 2),
    seed=st.integers(0, 1000),
    counted=st.lists(st.booleans(), min_size=22, max_size=22).filter(any),
)
def test_chunked_values_and_gradients_equal_dense_autograd(
    chunk, temperature, kl, cross_entropy, seed, counted
) -> None:
    torch.manual_seed(seed)
    objective = Objective(cross_entropy=cross_entropy, kl=kl, temperature=temperature)
    head, teacher_head = nn.Linear(WIDTH, VOCABULARY, bias=False), nn.Linear(WIDTH, VOCABULARY, bias=False)
    hidden, theirs = torch.randn(2, 11, WIDTH), torch.randn(2, 11, WIDTH)
    targets = torch.randint(0, VOCABULARY, (2, 11))

    reference_hidden = hidden.clone().requires_grad_()
    is_counted = torch.tensor(counted).view(2, 11)
    of_tokens = dense_terms(head(reference_hidden), teacher_head(theirs).detach(), targets, objective)
    ce, divergence = (term[is_counted].mean() for term in of_tokens)
    (cross_entropy * ce + kl * divergence).backward()
    assert head.weight.grad is not None
    expected_head = head.weight.grad.clone()
    head.weight.grad = torch.zeros_like(expected_head)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "_CHUNK_BYTES", {"cpu": 4 * VOCABULARY * chunk})
        got_ce, got_kl, gradient = head_loss_backward(
            hidden, head, theirs, teacher_head, targets, is_counted, objective, sum(counted)
        )

    if cross_entropy:
        torch.testing.assert_close(got_ce, ce.detach(), rtol=1e-4, atol=1e-5)
    if kl:
        torch.testing.assert_close(got_kl, divergence.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, reference_hidden.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.weight.grad, expected_head, rtol=1e-4, atol=1e-6)
    assert teacher_head.weight.grad is None


def test_a_student_equal_to_its_teacher_has_no_divergence() -> None:
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    hidden = torch.randn(1, 5, WIDTH)
    targets, everywhere = torch.zeros(1, 5, dtype=torch.long), torch.ones(1, 5, dtype=torch.bool)
    _, kl, _ = head_loss_backward(hidden, head, hidden, head, targets, everywhere, Objective(), 5)
    assert abs(kl.item()) < 1e-6


def test_the_alignment_loss_is_the_sum_of_mean_cosine_distances() -> None:
    ours = [torch.randn(2, 3, WIDTH, requires_grad=True) for _ in range(4)]
    theirs = [torch.randn(2, 3, WIDTH) for _ in range(4)]
    is_counted = torch.tensor([[True, True, False], [True, False, True]])
    expected = sum(
        (1 - F.cosine_similarity(a, b, dim=-1))[is_counted].mean() for a, b in zip(ours, theirs, strict=True)
    )
    torch.testing.assert_close(cosine_loss(ours, theirs, is_counted, 4), expected)


def test_terms_of_weight_zero_are_not_run_and_not_reported() -> None:
    head = nn.Linear(WIDTH, VOCABULARY, bias=False)
    hidden, targets = torch.randn(1, 5, WIDTH), torch.zeros(1, 5, dtype=torch.long)

    class UnusedError(Exception):
        pass

    class Unused(nn.Linear):
        def __init__(self):
            super().__init__(WIDTH, VOCABULARY, bias=False)

        def forward(self, input):
            raise UnusedError

    everywhere = torch.ones(1, 5, dtype=torch.bool)
    objective = Objective(kl=0, cosine=0)
    ce, kl, _ = head_loss_backward(hidden, head, hidden, Unused(), targets, everywhere, objective, 5)
    terms = weighted_terms([ce.item(), kl.item(), 0.0], objective, 3)
    assert (terms.kl, terms.cosine) == (None, None)
    assert terms.total == terms.cross_entropy == pytest.approx(ce.item())
    neither = Objective(cross_entropy=0, kl=0)
    _, _, gradient = head_loss_backward(hidden, Unused(), hidden, Unused(), targets, everywhere, neither, 5)
    assert not gradient.any()
