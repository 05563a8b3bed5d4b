"""What a run writes down."""

import json
from pathlib import Path

from distilling import fresh_bank, recipe, text, trainer_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anysize_training.distill.curves import draw_curves
from anysize_training.distill.journal import STEPS, Journal, read_journal


def test_lines_of_steps_that_will_be_run_again_are_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path, from_step=0)
    for step in range(5):
        journal.step(step, {"total": float(step)})
    journal.close()
    with (tmp_path / STEPS).open("a") as file:
        file.write('{"step": 5, "tot')  # cut off by a crash
    assert [line["step"] for line in read_journal(tmp_path / STEPS)] == [0, 1, 2, 3, 4]
    Journal(tmp_path, from_step=3).close()
    assert [line["step"] for line in read_journal(tmp_path / STEPS)] == [0, 1, 2]


def test_tensorboard_holds_the_same_figures(tmp_path: Path) -> None:
    made = recipe(run={"steps": 4, "evaluate_every": 2})
    trainer_of(made, fresh_bank(made), text(held_out=2), tmp_path).train()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    lines = read_journal(tmp_path / STEPS)
    for key in ("total", "cross_entropy", "kl", "cosine", "learning_rate", "gradient_norm", "tokens_per_s"):
        shown = [(event.step, event.value) for event in board.Scalars(f"log/{key}")]
        assert [step for step, _ in shown] == [0, 1, 2, 3]
        for (_, value), line in zip(shown, lines, strict=True):
            assert abs(value - line[key]) <= 1e-5 * abs(line[key])
    assert [event.step for event in board.Scalars("evaluations/student_perplexity")] == [1, 3]


def test_curves_are_drawn_for_any_run(tmp_path: Path) -> None:
    for name, changes, held_out in (("all", {}, 2), ("terms", {"objective": {"kl": 0, "cosine": 0}}, 0)):
        made = recipe(run={"steps": 3}, **changes)
        trainer_of(made, fresh_bank(made), text(held_out=held_out), tmp_path / name).train()
        picture = draw_curves(tmp_path / name, name)
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size > 20_000


def test_terms_that_are_not_run_are_null(tmp_path: Path) -> None:
    made = recipe(objective={"kl": 0}, run={"steps": 1})
    trainer_of(made, fresh_bank(made), text(), tmp_path).train()
    line = json.loads((tmp_path / STEPS).read_text())
    assert line["kl"] is None
    assert line["cross_entropy"] > 0
