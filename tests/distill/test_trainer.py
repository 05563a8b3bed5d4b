"""The run: its optimizer, its resume, and what it must leave alone."""

import copy
import json
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distilling import KEPT, batch_of, dense_gradients, fresh_bank, recipe, text, trainer_of, weights
from fakes import tiny_model

from anysize.errors import DivergedError, SettingsError
from anysize.family.blocks import BlockMap
from anysize.family.manifest import FolderTeacher
from anysize_training.distill.checkpoint import clear_unfinished, read_progress
from anysize_training.distill.optimizer import learning_rate, trained_parameters
from anysize_training.distill.provenance import identity_of


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


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    made, corpus = recipe(), text()
    trainer_of(made, fresh_bank(made), corpus, tmp_path).train()
    checkpoint = tmp_path / "checkpoints" / "step-00000006"
    identity = identity_of(made, FolderTeacher(fingerprint="1" * 64), corpus, None)
    assert read_progress(checkpoint, identity).step == 6
    for part in ("recipe", "text", "teacher", "start"):
        with pytest.raises(SettingsError, match=f"another {part}"):
            read_progress(checkpoint, replace(identity, **{part: "2" * 64}))


def test_a_recipe_is_another_where_it_changes_what_comes_out_and_only_there() -> None:
    source, corpus = FolderTeacher(fingerprint="1" * 64), text()
    same = [{}, {"run": {"checkpoint_every": 3, "evaluate_every": 1, "device": "cpu"}}, {"teacher": "elsewhere"}]
    same.append({"data": {"source": "moved/text.txt", "cache": "there"}})
    assert len({identity_of(recipe(**changes), source, corpus, None) for changes in same}) == 1
    others = [
        {"run": {"seed": 1}},
        {"run": {"micro_batch_size": 1}},
        {"objective": {"kl": 0.2}},
        {"student": {"rank": 5}},
    ]
    assert len({identity_of(recipe(**changes), source, corpus, None) for changes in [*others, {}]}) == 5


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
    again = trainer_of(made, fresh_bank(made), text(), tmp_path)
    assert again.resume() == 6
    clear_unfinished(tmp_path / "checkpoints", "step-")
    assert not list((tmp_path / "checkpoints").glob(".step-*"))


def test_a_checkpoint_that_was_moved_aside_and_has_no_heir_is_put_back(tmp_path: Path) -> None:
    made = recipe()
    trainer_of(made, fresh_bank(made), text(), tmp_path).train()
    newest = tmp_path / "checkpoints" / "step-00000006"
    newest.rename(newest.with_name(".step-00000006.abc.old"))
    clear_unfinished(newest.parent, "step-")
    assert trainer_of(made, fresh_bank(made), text(), tmp_path).resume() == 6


def test_a_run_that_stops_where_it_has_just_saved_does_not_save_again(tmp_path: Path) -> None:
    made = recipe(run={"steps": 100, "checkpoint_every": 1})
    trainer = trainer_of(made, fresh_bank(made), text(), tmp_path)
    optimize, saves = trainer.optimize, []

    def optimize_and_signal(number: int):
        if number == 2:
            signal.raise_signal(signal.SIGTERM)
        return optimize(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "optimize", optimize_and_signal)
        patch.setattr("anysize_training.distill.trainer.save_checkpoint", lambda *_, **__: saves.append(1))
        assert trainer.train().step == 3
    assert len(saves) == 3


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
