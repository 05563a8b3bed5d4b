"""`anysize variants`: what it says of quality and speed, how wide it is, and what it draws."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import write_tiny_family
from typer.testing import CliRunner, Result

from anysize.cli import app
from anysize.family.artifact import amend_family
from anysize.family.manifest import Measurement, read_manifest

TEXT = {"dataset": "text.txt", "dataset_sha256": "5" * 64, "tokens": 9}


@pytest.fixture(scope="module")
def measured_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny family of which two sizes were measured, one of them with rounded weights too."""
    folder = tmp_path_factory.mktemp("variants") / "family"
    write_tiny_family(folder)
    measurements = (
        Measurement(variant="student", perplexity=31.25, kl=1.5, perplexity_int8=33.5, **TEXT),
        Measurement(variant="teacher", perplexity=12.5, kl=None, **TEXT),
    )
    amend_family(folder, read_manifest(folder).model_copy(update={"measurements": measurements}), card="# measured\n")
    return folder


@pytest.fixture
def run(measured_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ANYSIZE_COMPILE", "false")

    def command(name: str, *arguments: str, width: int = 80) -> Result:
        environment = {"COLUMNS": str(width), "NO_COLOR": "1"}
        result = CliRunner().invoke(app, [name, "--family", str(measured_folder), *arguments], env=environment)
        assert result.exit_code == 0, result.output
        return result

    return command


def qualities(result: Result) -> dict[str, Any]:
    return {size["id"]: size["quality"] for size in json.loads(result.stdout)["variants"]}


def test_measured_quality_is_listed_with_its_text_and_is_null_where_nothing_was_measured(run: Any):
    found = qualities(run("variants", "--json"))
    text = {"dataset": "text.txt", "sha256": "5" * 64}
    assert found.pop("student") == {"perplexity": 31.25, "kl": 1.5, **text}
    assert found.pop("teacher") == {"perplexity": 12.5, "kl": None, **text}
    assert found
    assert set(found.values()) == {None}


def test_with_rounded_weights_the_quality_is_that_of_rounded_weights(run: Any):
    found = qualities(run("variants", "--json", "--quantize", "int8"))
    assert found["student"] == {"perplexity": 33.5, "kl": None, "dataset": "text.txt", "sha256": "5" * 64}
    assert found["teacher"] is None


def test_a_narrow_terminal_loses_columns_but_no_row_is_broken(run: Any):
    run("calibrate", "--within-s", "1")
    for width in (120, 80, 60):
        lines = run("variants", width=width).stdout.splitlines()
        assert max(map(len, lines)) <= width
        student, teacher = ([line for line in lines if name in line] for name in ("student", "teacher"))
        assert len(student) == len(teacher) == 1
        assert "31.2" in student[0]
        assert "12.5" in teacher[0]
        assert len(student[0].strip(" │").split("│")[-1].split()) == 3
        assert ("MB" in "".join(lines)) == (width >= 80)


def test_size_is_drawn_against_quality_and_speed_measured_or_not(run: Any, tmp_path: Path):
    for name in ("uncalibrated", "calibrated"):
        run("variants", "--plot", str(tmp_path / f"{name}.png"))
        run("calibrate", "--within-s", "1")
    pictures = [(tmp_path / f"{name}.png").read_bytes() for name in ("uncalibrated", "calibrated")]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0] != pictures[1]
