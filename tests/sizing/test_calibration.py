"""The file of a calibration: kept whole, and used only for what it was made for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import write_tiny_family

from anysize.engine.workload import StepRow
from anysize.errors import CalibrationError
from anysize.family.family import Family
from anysize.family.variant import Variant
from anysize.settings import Settings
from anysize.sizing.calibrate import Measured
from anysize.sizing.calibration import Calibration, Key, read_calibration, required_calibration
from anysize.sizing.latency import Shape


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))
    write_tiny_family(tmp_path / "family")
    return Settings(family=tmp_path / "family", device="cpu")


def load(settings: Settings) -> Family:
    assert settings.family is not None
    return Family.load(settings.family, dtype=torch.float32, device=torch.device("cpu"))


def written(settings: Settings, family: Family) -> Path:
    blocks = tuple(len(block) for block in family.bank.blocks.blocks)
    steps = [
        Measured((StepRow(Variant.teacher(family.positions), tokens, stored, wants_logits=True),), (2.0 + tokens / 8,))
        for tokens, stored in ((1, 3), (4, 0), (16, 8), (32, 0))
    ]
    return Calibration.fit(Key.of(settings, compiled=False), Shape(blocks, True, True), steps).write()


def test_what_was_kept_is_found_again_and_predicts_the_same(settings: Settings):
    family = load(settings)
    path = written(settings, family)

    found = read_calibration(Key.of(settings, compiled=False), family)

    assert found == Calibration.model_validate_json(path.read_bytes())
    assert found is not None
    for step in found.steps:
        assert step.predicted_ms == pytest.approx(step.measured_ms, rel=0.2)
        rows = [StepRow(family.parse(row.variant), row.tokens, row.stored, row.wants_logits) for row in step.rows]
        assert found.model().step_ms(rows) == pytest.approx(step.predicted_ms)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "change",
    [{"dtype": "bfloat16"}, {"quantize": "int8"}, {"compiled": True}, {"threads": 1}, {"family": "other"}],
    ids=lambda change: next(iter(change)),
)
def test_it_is_not_used_once_anything_has_changed(settings: Settings, tmp_path: Path, change: dict[str, Any]):
    family = load(settings)
    written(settings, family)
    compiled = change.pop("compiled", False)
    threads = torch.get_num_threads()
    if "threads" in change:
        torch.set_num_threads(threads + change.pop("threads"))
    if "family" in change:
        write_tiny_family(tmp_path / "other", architecture="qwen3")
        change["family"] = tmp_path / "other"
    try:
        other = settings.model_copy(update=change)
        assert read_calibration(Key.of(other, compiled=compiled), load(other)) is None
        with pytest.raises(CalibrationError, match="run `anysize calibrate`"):
            required_calibration(Key.of(other, compiled=compiled), load(other))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "Invalid JSON"),
        (lambda text: json.dumps(json.loads(text) | {"more": 1}), "more: Extra inputs"),
        (lambda text: json.dumps(json.loads(text) | {"schema_version": 2}), "schema_version"),
        (lambda text: json.dumps(json.loads(text) | {"coefficients": {"steps": -1.0}}), "coefficients.steps"),
        (lambda text: json.dumps(json.loads(text) | {"coefficients": {"steps": 1.0}}), "not those that this version"),
        (lambda text: json.dumps(json.loads(text) | {"blocks": [1, 1]}), "blocks are not those of the family"),
        (lambda text: text.replace('"kernels":null', '"kernels":"other"'), "made for something else"),
        (lambda text: text + " " * (17 << 20), "far too large"),
    ],
)
def test_a_damaged_file_is_not_used_and_is_named(settings: Settings, damage: Any, message: str):
    family = load(settings)
    path = written(settings, family)
    path.write_text(damage(path.read_text()))

    with pytest.raises(CalibrationError, match=message) as caught:
        read_calibration(Key.of(settings, compiled=False), family)
    assert str(path) in str(caught.value)
    assert "anysize calibrate" in str(caught.value)


def test_margins_come_from_every_repetition_and_from_what_is_usual(settings: Settings):
    family = load(settings)
    teacher = Variant.teacher(family.positions)
    # One repetition in ten takes twice as long, whatever the step.
    steps = [
        Measured((StepRow(teacher, tokens, 0, wants_logits=True),), (2.0 + tokens,) * 9 + (2 * (2.0 + tokens),))
        for tokens in (1, 2, 4, 8)
    ]
    blocks = tuple(len(block) for block in family.bank.blocks.blocks)
    margin = Calibration.fit(Key.of(settings, compiled=False), Shape(blocks, True, True), steps).margin()
    assert margin.step == pytest.approx(2.0, rel=0.05)
    assert margin.lasting == pytest.approx(1.0, rel=0.05)
