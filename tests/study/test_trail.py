"""Models that are run one after the other: what they have in common is run once, and nothing else is."""

from collections.abc import Sequence

import pytest
import torch
from fakes import ARCHITECTURES, tiny_bank, tiny_config, tiny_model
from layer_measures import states
from stacked import pruned_by_hand, some_tokens
from torch import Tensor
from transformers import PreTrainedModel

from anysize.family.architectures import architecture_of
from anysize.family.assembly import assemble, restack
from anysize.family.variant import Variant
from anysize_training.replay import Replay
from anysize_training.stack import StackLayer, build, plain_stack
from anysize_training.trail import Trail

IDS = some_tokens(5, 12)


def trail_of(model: PreTrainedModel, kept_bytes: int = 1 << 20) -> Trail:
    return Trail(architecture_of(model.config, "tiny"), IDS, batch=2, kept_bytes=kept_bytes)


def stack_of(teacher: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    return build(teacher, architecture_of(teacher.config, "tiny"), plain_stack(layers))


def run(trail: Trail, model: PreTrainedModel) -> list[Tensor]:
    """All hidden states, in front of the first layer and behind each."""
    return [torch.cat(batches) for batches in zip(*trail.run(model, "tiny"), strict=True)]


def layers_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the layers that are run from now on, once for each batch."""
    found: list[int] = []
    plain = Replay.run

    def counted(self: Replay, hidden: Tensor, layers: Sequence[int]) -> Tensor:
        found.extend(layers)
        return plain(self, hidden, layers)

    monkeypatch.setattr(Replay, "run", counted)
    return found


@pytest.mark.parametrize("kept_bytes", [1 << 20, 8_000, 0])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_states_are_those_of_each_model_by_itself(architecture: str, kept_bytes: int) -> None:
    teacher = tiny_model(tiny_config(architecture, 5), 0)
    trail = trail_of(teacher, kept_bytes)
    for kept in ((0, 1, 2, 3, 4), (0, 1, 2, 4), (0, 1, 2), (0, 1, 2), (1, 2), (0, 1, 3, 4), (0, 1, 2, 3, 4)):
        found = run(trail, stack_of(teacher, kept))
        expected = states(pruned_by_hand(teacher, kept), IDS)
        assert len(found) == len(expected) == len(kept) + 1
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_common_beginning_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_model(tiny_config("llama", 5), 0)
    trail = trail_of(teacher)
    run(trail, teacher)
    found = layers_run(monkeypatch)
    run(trail, stack_of(teacher, (0, 1, 2, 4)))
    assert found == [3] * 3, "the fourth layer, in each of three batches"
    run(trail, stack_of(teacher, (0, 1, 2)))
    assert len(found) == 3, "all of it was known"
    run(trail, stack_of(teacher, (1, 2)))
    assert found[3:] == [0, 1] * 3, "another layer comes first"


def test_batches_for_which_there_is_no_room_are_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_model(tiny_config("llama", 3), 0)
    two_rows = sum(state[:2].nbytes for state in states(teacher, IDS))
    trail = trail_of(teacher, two_rows)
    run(trail, teacher)
    found = layers_run(monkeypatch)
    run(trail, stack_of(teacher, (0, 1, 2)))
    assert found == [0, 1, 2] * 2, "the first batch is kept, the others are not"


def test_the_same_layers_under_another_embedding_have_nothing_in_common() -> None:
    bank = tiny_bank("llama", kind="full")
    architecture, teacher = bank.architecture, bank.teacher
    other = restack(
        teacher,
        architecture,
        teacher.config,
        embeddings=architecture.embeddings_of(bank.student),
        layers=[*architecture.layers_of(teacher)],
        norm=architecture.norm_of(teacher),
        head=architecture.head_of(teacher),
    )
    with torch.no_grad():
        next(bank.student.parameters()).add_(0.5)
    trail = trail_of(teacher)
    first, second = run(trail, teacher), run(trail, other)
    assert not torch.allclose(first[-1], second[-1])
    assert torch.equal(second[-1], run(trail_of(teacher), other)[-1])


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_a_students_layer_is_not_the_teachers_that_it_began_as(kind) -> None:
    bank = tiny_bank("llama", kind=kind)
    trail = Trail(bank.architecture, IDS, batch=2)
    for choice in ((True, True, True), (False, True, True), (False, False, True), (True, False, True)):
        model = assemble(bank, Variant(choice))
        assert torch.equal(run(trail, model)[-1], run(Trail(bank.architecture, IDS, batch=2), model)[-1])


def test_a_layer_that_shares_some_tensors_with_another_is_not_that_one() -> None:
    teacher = tiny_model(tiny_config("llama", 4), 0)
    trail = trail_of(teacher)
    for maps, rest in ((1, 1), (3, 1), (1, 3), (3, 3)):
        layers = (StackLayer.of(0), StackLayer(1, ((maps, 1),), ((rest, 1),)), StackLayer.of(2))
        model = build(teacher, architecture_of(teacher.config, "tiny"), layers)
        assert torch.equal(run(trail, model)[-1], run(trail_of(teacher), model)[-1])


def test_a_model_that_was_stopped_half_way_leaves_nothing_for_the_next() -> None:
    teacher = tiny_model(tiny_config("llama", 4), 0)
    trail = trail_of(teacher)
    run(trail, teacher)
    next(trail.run(stack_of(teacher, (0, 2, 3)), "stopped"))
    last = stack_of(teacher, (0, 2, 1))
    for ours, theirs in zip(run(trail, last), run(trail_of(teacher), last), strict=True):
        assert torch.equal(ours, theirs)
