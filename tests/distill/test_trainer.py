"""The run: its gradients, its resume, and what it must leave alone."""

import copy
import json
import signal
import threading
from pathlib import Path

import pytest
import torch
from fakes import ARCHITECTURES, tiny_bank, tiny_model
from torch.nn import functional as F

from anysize.errors import DivergedError, SettingsError
from anysize.family.bank import Bank
from anysize.family.blocks import BlockMap
from anysize_training.distill.batches import Batch, Packing, Sequences
from anysize_training.distill.corpus import Corpus
from anysize_training.distill.initialise import initial_bank
from anysize_training.distill.optimizer import learning_rate, trained_parameters
from anysize_training.distill.processes import Processes
from anysize_training.distill.recipe import Recipe
from anysize_training.distill.trainer import Trainer

KEPT = (0, 2, 5)


def recipe(**overrides) -> Recipe:
    values = {
        "name": "tiny",
        "teacher": "somewhere",
        "student": {"kind": "full", "rank": 4, "initialise": {"method": "layers", "layers": KEPT}},
        "data": {"source": "text.txt", "sequence_length": 12},
        "optimizer": {"learning_rate": 1e-3},
        "run": {"steps": 6, "batch_size": 4, "micro_batch_size": 2, "checkpoint_every": 2},
    }
    for section, changes in overrides.items():
        values[section] = values[section] | changes if isinstance(changes, dict) and section in values else changes
    return Recipe.model_validate(values)


def text(rows: int = 24, *, packing: Packing = "stream", documents: int = 30, held_out: int = 0) -> Corpus:
    """Random tokens in documents of random lengths, packed into rows of 12 inputs."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(3, 250, (rows * 13,), generator=generator, dtype=torch.int32)
    borders = torch.randperm(rows * 13 - 2, generator=generator)[: documents - 1].sort().values + 1
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), borders])
    whole = Sequences(tokens, starts, length=12, packing=packing)
    held = Sequences(tokens[: held_out * 13], starts[starts < held_out * 13], length=12, packing=packing)
    return Corpus(whole, held if held_out else None, "0" * 64)


def trainer_of(made: Recipe, bank: Bank, corpus: Corpus, folder: Path) -> Trainer:
    processes = Processes(made.run, torch.device("cpu"))
    return Trainer(made, bank, corpus, folder, processes=processes, teacher_fingerprint="1" * 64)


def fresh_bank(made: Recipe, architecture: str = "llama") -> Bank:
    bank = tiny_bank(architecture)
    return initial_bank(made.student, bank.teacher, bank.architecture, seed=0)


def weights(bank: Bank, made: Recipe) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trained_parameters(bank, made).items()}


def batch_of(corpus: Corpus, step: int, size: int) -> Batch:
    return corpus.training.rows(corpus.training.row_numbers(step, size))


def dense_gradients(bank: Bank, made: Recipe, batch: Batch) -> dict[str, torch.Tensor]:
    """Equation 1 by plain transformers: all hidden states, all logits, one autograd graph."""
    objective, blocks = made.objective, bank.blocks
    inputs, targets = batch.inputs_BL, batch.targets_BL
    student = bank.student
    ours = student(inputs, output_hidden_states=True)
    with torch.no_grad():
        theirs = bank.teacher(inputs, output_hidden_states=True)
    # hidden_states[-1] is after the final norm; Equation 1 wants the layer's own output, so it is recomputed by hand.
    last_ours, last_theirs = _before_norm(student, inputs), _before_norm(bank.teacher, inputs).detach()
    states_ours = [*ours.hidden_states[1:-1], last_ours]
    states_theirs = [*theirs.hidden_states[1:-1], last_theirs]
    ends = [following - 1 for following in (*blocks.kept[1:], blocks.teacher_layers)]
    cosine = sum(
        (1 - F.cosine_similarity(states_ours[i], states_theirs[end], dim=-1)).mean() for i, end in enumerate(ends)
    )
    ce = F.cross_entropy(ours.logits.flatten(0, 1), targets.flatten())
    kl = F.kl_div(
        ours.logits.log_softmax(-1).flatten(0, 1),
        theirs.logits.softmax(-1).flatten(0, 1),
        reduction="batchmean",
    )
    loss = objective.cross_entropy * ce + objective.kl * kl + objective.cosine / (blocks.student_layers + 1) * cosine
    parameters = trained_parameters(bank, made)
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()), allow_unused=True), strict=True))


def _before_norm(model, inputs):
    caught = []
    norm = next(module for name, module in model.named_modules() if name.split(".")[-1] in NORMS)
    handle = norm.register_forward_pre_hook(lambda _module, arguments: caught.append(arguments[0]))
    model(inputs)
    handle.remove()
    return caught[0]


NORMS = {"norm", "final_layer_norm", "ln_f"}


@pytest.mark.parametrize("kind", ["full", "delta"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_equal_those_of_the_dense_objective(architecture: str, kind: str, tmp_path: Path) -> None:
    made = recipe(student={"kind": kind}, run={"micro_batch_size": 4}, objective={"kl": 0.7, "cosine": 3.0})
    bank = fresh_bank(made, architecture)
    with torch.no_grad():
        for parameter in trained_parameters(bank, made).values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    trainer = trainer_of(made, bank, text(), tmp_path)
    expected = dense_gradients(bank, made, batch_of(text(), 0, 4))
    trainer._step.run(0)
    for name, parameter in trained_parameters(bank, made).items():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected[name], rtol=2e-4, atol=2e-6, msg=name)


def test_steps_are_clipped_adamw_with_the_schedules_learning_rate(tmp_path: Path) -> None:
    settings = {"learning_rate": 1e-2, "warmup_ratio": 0.5, "max_grad_norm": 0.05, "weight_decay": 0.3}
    made = recipe(optimizer=settings, run={"micro_batch_size": 4, "steps": 4})
    bank, reference = fresh_bank(made), fresh_bank(made)
    trainer = trainer_of(made, bank, text(), tmp_path)
    parameters = trained_parameters(reference, made)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}
    reference.student.requires_grad_(True)
    for step, rate in enumerate((0.005, 0.01, 0.01)):
        trainer.optimize(step)
        gradients = dense_gradients(reference, made, batch_of(text(), step, 4))
        norm = torch.stack([(g**2).sum() for g in gradients.values()]).sum().sqrt()
        assert norm > 0.05
        with torch.no_grad():
            for name, parameter in parameters.items():
                gradient = gradients[name] * 0.05 / (norm + 1e-6)
                first, second = moments[name]
                first.mul_(0.9).add_(0.1 * gradient)
                second.mul_(0.95).add_(0.05 * gradient**2)
                corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.95 ** (step + 1))
                parameter.mul_(1 - rate * 0.3)
                parameter.sub_(rate * corrected[0] / (corrected[1].sqrt() + 1e-8))
    trained = weights(bank, made)
    for name, parameter in parameters.items():
        moved = (trained[name] - parameter).abs().mean()
        assert moved < 2e-5, name


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_splitting_a_batch_into_micro_batches_changes_no_gradient(kind: str, tmp_path: Path) -> None:
    gradients = []
    for micro in (1, 2, 4):
        made = recipe(student={"kind": kind}, run={"micro_batch_size": micro})
        bank = fresh_bank(made)
        trainer = trainer_of(made, bank, text(), tmp_path)
        trainer._step.run(0)
        gradients.append({n: p.grad.clone() for n, p in trained_parameters(bank, made).items() if p.grad is not None})
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(kind: str, tmp_path: Path) -> None:
    made = recipe(student={"kind": kind})
    whole = fresh_bank(made)
    trainer_of(made, whole, text(), tmp_path / "whole").train()

    class KilledError(Exception):
        pass

    broken = trainer_of(made, fresh_bank(made), text(), tmp_path / "cut")
    step = broken.optimize

    def killed_at_step_five(number: int):
        if number == 5:
            raise KilledError
        return step(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broken, "optimize", killed_at_step_five)
        with pytest.raises(KilledError):
            broken.train()
    resumed_bank = fresh_bank(made)
    resumed = trainer_of(made, resumed_bank, text(), tmp_path / "cut")
    assert resumed.resume() == 4
    resumed.train()
    expected = weights(whole, made)
    for name, parameter in weights(resumed_bank, made).items():
        assert torch.equal(parameter, expected[name]), name
    series = [
        [json.loads(line)["total"] for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("whole", "cut")
    ]
    assert series[0] == series[1]
    assert len(series[0]) == 6


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_training_lowers_the_loss_and_leaves_the_teacher_alone(kind: str, tmp_path: Path) -> None:
    made = recipe(student={"kind": kind}, run={"steps": 30, "checkpoint_every": 30}, optimizer={"learning_rate": 1e-2})
    bank = fresh_bank(made)
    before = copy.deepcopy(bank.teacher.state_dict())
    trainer_of(made, bank, text(4), tmp_path).train()
    losses = [json.loads(line)["total"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    for name, tensor in bank.teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not any(parameter.grad is not None for parameter in bank.teacher.parameters())


def test_a_signal_saves_and_stops_at_the_next_step(tmp_path: Path) -> None:
    made = recipe(run={"steps": 100_000, "checkpoint_every": 100_000})
    trainer = trainer_of(made, fresh_bank(made), text(), tmp_path)
    step = trainer.optimize

    def step_and_signal(number: int):
        if number == 3:
            threading.Thread(target=signal.raise_signal, args=(signal.SIGTERM,)).start()
        return step(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "optimize", step_and_signal)
        progress = trainer.train()
    assert 4 <= progress.step < 1000
    assert trainer_of(made, fresh_bank(made), text(), tmp_path).resume() == progress.step


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    made = recipe()
    trainer_of(made, fresh_bank(made), text(), tmp_path).train()
    other = recipe(optimizer={"learning_rate": 5e-4})
    with pytest.raises(SettingsError, match="another recipe"):
        trainer_of(other, fresh_bank(other), text(), tmp_path).resume()


def test_a_loss_that_is_no_number_stops_the_run_with_its_step(tmp_path: Path) -> None:
    made = recipe(student={"kind": "full"})
    bank = fresh_bank(made)
    with torch.no_grad():
        next(iter(bank.student.parameters())).fill_(torch.nan)
    with pytest.raises(DivergedError, match="step 0"):
        trainer_of(made, bank, text(), tmp_path).train()


def test_an_unfinished_checkpoint_is_not_seen(tmp_path: Path) -> None:
    made = recipe()
    trainer_of(made, fresh_bank(made), text(), tmp_path).train()
    (tmp_path / "checkpoints" / ".step-00000009.xyz.partial").mkdir()
    (tmp_path / "checkpoints" / "step-9").mkdir()
    assert trainer_of(made, fresh_bank(made), text(), tmp_path).resume() == 6


def test_the_schedule_warms_up_and_falls_along_a_cosine() -> None:
    optimizer = recipe(optimizer={"learning_rate": 1.0, "warmup_ratio": 0.1}).optimizer
    rates = [learning_rate(optimizer, step, 100) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3


def test_a_full_student_starts_as_the_kept_layers_and_shares_no_tensor() -> None:
    made = recipe()
    bank = fresh_bank(made)
    assert bank.blocks == BlockMap(KEPT, 6)
    teacher_layers = bank.architecture.layers_of(bank.teacher)
    for kept, layer in zip(KEPT, bank.architecture.layers_of(bank.student), strict=True):
        for ours, theirs in zip(layer.parameters(), teacher_layers[kept].parameters(), strict=True):
            assert torch.equal(ours, theirs)
            assert ours.data_ptr() != theirs.data_ptr()
    assert tiny_model(bank.student.config, 0).num_parameters() == bank.student.num_parameters()
