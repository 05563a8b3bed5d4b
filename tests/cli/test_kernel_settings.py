"""When a service has compiled kernels, and when it says why it has none."""

import shutil
from pathlib import Path

import pytest

from anysize.commands.serve import load_kernels
from anysize.engine.kernels.kernels import Kernels
from anysize.errors import SettingsError
from anysize.settings import load_settings

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "nothing"))


@pytest.mark.parametrize("given", [{}, {"compile": True}, {"quantize": "int8"}])
def test_they_are_used_where_a_compiler_is_there(given: dict[str, object]):
    assert isinstance(load_kernels(load_settings(**given), print), Kernels)


@pytest.mark.parametrize("given", [{"compile": False}, {"dtype": "bfloat16"}])
def test_they_are_left_out_where_they_are_not_wanted_or_of_no_use(given: dict[str, object]):
    assert load_kernels(load_settings(**given), print) is None


@pytest.mark.parametrize(
    "given",
    [
        {"compile": True, "dtype": "bfloat16"},
        {"quantize": "int8", "dtype": "float16"},
        {"quantize": "int8", "compile": False},
    ],
)
def test_what_cannot_go_together_is_refused(given: dict[str, object]):
    with pytest.raises(SettingsError, match="for float32 on a CPU"):
        load_kernels(load_settings(**given), print)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_a_service_runs_all_the_same_and_says_so():
    said: list[str] = []

    assert load_kernels(load_settings(), said.append) is None

    assert len(said) == 1
    assert "without compiled kernels" in said[0]
    assert "install one" in said[0]


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("given", [{"compile": True}, {"quantize": "int8"}])
def test_without_a_compiler_what_was_asked_for_is_refused(given: dict[str, object]):
    with pytest.raises(SettingsError, match=r"no C\+\+ compiler"):
        load_kernels(load_settings(**given), print)
