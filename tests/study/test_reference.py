"""Quality against a teacher whose log probabilities are kept, or are not: the definition, in float64."""

import pytest
import torch
from torch import Tensor

from anysize_training.study.reference import Reference

TOKENS, WIDTH, VOCABULARY = (3, 100), 8, 50


def head(seed: int) -> torch.nn.Linear:
    torch.manual_seed(seed)
    return torch.nn.Linear(WIDTH, VOCABULARY).requires_grad_(False)


def said_by(model: torch.nn.Linear, hidden: Tensor) -> Tensor:
    return model(hidden).log_softmax(-1)


# All of the chunks, the first two of three, and the first alone.
@pytest.mark.parametrize("kept_bytes", [1 << 20, 2 * 128 * VOCABULARY * 4, 0])
def test_quality_is_the_definition_however_much_is_kept(kept_bytes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(*TOKENS, WIDTH, generator=generator) for _ in range(2))
    targets = torch.randint(VOCABULARY, TOKENS, generator=generator)
    model, teacher = head(1), head(2)
    asked: list[int] = []

    def teacher_says(hidden: Tensor) -> Tensor:
        asked.append(len(hidden))
        return said_by(teacher, hidden)

    reference = Reference(teacher_says, theirs.split(2), targets.split(2), kept_bytes=kept_bytes)
    in_advance = sum(asked)
    asked.clear()
    found = reference.quality(lambda hidden: said_by(model, hidden), ours.split(2))
    assert sum(asked) == 300 - in_advance, "what is kept is not made again"
    likely, expected = (said_by(one.double(), state.double()) for one, state in ((model, ours), (teacher, theirs)))
    assert found.negative_log_likelihood == pytest.approx(-likely.gather(-1, targets[..., None]).mean().item())
    assert found.kl == pytest.approx((expected.exp() * (expected - likely)).sum(-1).mean().item())


def test_the_teacher_is_at_no_distance_from_itself() -> None:
    hidden, targets, teacher = torch.randn(*TOKENS, WIDTH), torch.zeros(*TOKENS, dtype=torch.long), head(2)
    own = Reference(lambda hidden: said_by(teacher, hidden), [hidden], [targets]).own_quality()
    assert own.kl == 0
    likely = said_by(teacher, hidden)
    assert own.negative_log_likelihood == pytest.approx(-likely[..., 0].mean().item())
