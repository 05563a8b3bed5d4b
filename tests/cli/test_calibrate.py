"""`anysize calibrate` and `anysize bench latency` on a tiny family. No time is asserted."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from anysize.cli import app


@pytest.fixture
def run(family_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))

    def command(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--family", str(family_folder), "--no-compile"])

    return command


def test_what_was_measured_is_kept_shown_and_used(run: Any, tmp_path: Path):
    measured = run("calibrate", "--within-s", "1", "--json")
    assert measured.exit_code == 0, measured.output
    shown = run("calibrate", "--report", "--json", "--plot", str(tmp_path / "calibration.png"))
    assert shown.exit_code == 0, shown.output

    first, second = (json.loads(one.stdout) for one in (measured, shown))
    assert first["coefficients_ms"] == second["coefficients_ms"]
    assert all(value >= 0 for value in first["coefficients_ms"].values())
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert len([*(tmp_path / "cache" / "calibrations").iterdir()]) == 1

    held_out = run("bench", "latency", "--loads", "2", "--json")
    assert held_out.exit_code == 0, held_out.output
    keys = {f"{kind}_error_{what}" for kind in ("tpot", "ttft") for what in ("median", "p95")}
    assert keys <= json.loads(held_out.stdout).keys()


def test_without_one_the_error_names_the_command(run: Any):
    for arguments in (("calibrate", "--report"), ("bench", "latency")):
        refused = run(*arguments)
        assert refused.exit_code == 2
        assert "run `anysize calibrate`" in " ".join(refused.stderr.split())
