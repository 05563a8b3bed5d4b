"""`anysize doctor`, shown faults that are really there."""

import json
import os
import socket
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from fakes import write_tiny_family
from typer.testing import CliRunner

from anysize.cli import app
from anysize.commands.checks.software import software_checks


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ANYSIZE_CACHE", str(folder))
    return folder


def examined(*arguments: str, code: int) -> dict[str, dict[str, Any]]:
    """The checks by name."""
    result = CliRunner().invoke(app, ["doctor", "--port", "0", "--no-compile", *arguments, "--json"])
    assert result.exit_code == code, result.output
    report = json.loads(result.stdout)
    assert report["ok"] == (code == 0)
    assert all(check["advice"] for check in report["checks"] if check["outcome"] == "warn")
    return {check["name"]: check for check in report["checks"]}


def test_a_sound_family_on_a_sound_machine_is_fine(family_folder: Path):
    checks = examined(str(family_folder), code=0)
    assert {name: check["outcome"] for name, check in checks.items() if check["outcome"] != "ok"} == {
        "calibration": "warn"
    } | {name: "warn" for name in ("processor",) if checks[name]["outcome"] == "warn"}
    assert "anysize calibrate" in checks["calibration"]["advice"]


def test_a_damaged_file_is_named(family_folder: Path):
    student = family_folder / "student.safetensors"
    data = bytearray(student.read_bytes())
    data[-1] ^= 1
    student.write_bytes(data)
    check = examined(str(family_folder), code=1)["family"]
    assert check["outcome"] == "fail"
    assert str(student) in check["found"]
    assert check["advice"]


def test_a_teacher_of_other_weights_is_seen(tmp_path: Path):
    folder = tmp_path / "family"
    write_tiny_family(folder)
    manifest = json.loads((folder / "family.json").read_text())
    manifest["teacher"]["fingerprint"] = "0" * 64
    (folder / "family.json").write_text(json.dumps(manifest))
    check = examined(str(folder), code=1)["teacher"]
    assert "not 000000000000" in check["found"]


def test_a_teacher_that_was_not_fetched_is_seen():
    check = examined(code=1)["teacher"]
    assert check["outcome"] == "fail"
    assert "anysize fetch" in check["found"]


def test_a_cache_folder_that_cannot_be_written_is_seen(family_folder: Path, cache: Path):
    cache.write_text("a file where the folder should be")
    check = examined(str(family_folder), code=1)["cache"]
    assert str(cache) in check["found"]
    assert "ANYSIZE_CACHE" in check["advice"]


def test_a_port_that_is_taken_is_seen(family_folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        check = examined(str(family_folder), "--port", str(port), code=1)["port"]
    assert f"cannot listen on 127.0.0.1 port {port}" in check["found"]


def test_no_compiler_is_a_warning_and_a_failure_where_kernels_are_needed(
    family_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    arguments = ["doctor", str(family_folder), "--port", "0", "--json"]
    assert json.loads(CliRunner().invoke(app, arguments).stdout)["ok"]
    needed = CliRunner().invoke(app, [*arguments, "--compile"])
    (check,) = [one for one in json.loads(needed.stdout)["checks"] if one["name"] == "kernels"]
    assert (needed.exit_code, check["outcome"]) == (1, "fail")
    assert "install one" in check["found"]


def test_a_gpu_that_is_not_there_is_seen(family_folder: Path):
    result = CliRunner().invoke(app, ["doctor", str(family_folder), "--port", "0", "--device", "cuda:99"])
    assert result.exit_code in (1, 2)
    assert "cuda:99" in result.output


def test_a_calibration_of_something_else_says_in_what_it_differs(family_folder: Path, cache: Path):
    from anysize.settings import Settings
    from anysize.sizing.calibration import Key

    key = Key.of(Settings(family=family_folder), compiled=False)
    path = key.path
    path.parent.mkdir(parents=True)
    path.with_name("0.json").write_text(json.dumps({"key": {**key.model_dump(), "torch": "1.0"}}))
    assert examined(str(family_folder), code=0)["calibration"]["found"] == "made for another torch"
    path.write_text("{}")
    damaged = examined(str(family_folder), code=0)["calibration"]
    assert (damaged["outcome"], damaged["found"]) == ("warn", f"{path} cannot be used")


def test_a_package_out_of_range_is_seen(monkeypatch: pytest.MonkeyPatch):
    found = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "4.0.0" if name == "transformers" else found(name))
    (check,) = [one for one in software_checks() if one.outcome == "fail"]
    assert check.name == "transformers"
    assert "pip install 'transformers" in check.advice


def test_people_get_a_table(family_folder: Path):
    environment = {**os.environ, "COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"}
    arguments = ["doctor", str(family_folder), "--port", "0", "--no-compile"]
    result = CliRunner().invoke(app, arguments, env=environment)
    assert result.exit_code == 0
    assert "what to do" in result.stdout
    assert "anysize calibrate" in result.stdout
