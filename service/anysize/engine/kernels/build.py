"""Compiling the kernels for this machine, once: the shared library is kept in the cache folder."""

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from anysize.errors import SettingsError
from anysize.family.fetch import cache_folder

_SOURCE = Path(__file__).with_name("kernels.cpp")
_PARTS = (_SOURCE, *sorted(_SOURCE.parent.glob("*.h")))
_OPTIONS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-pthread")
_LIMIT_S = 300
_UNFINISHED = ".kernels."
# Nothing that is still being compiled is as old.
_ABANDONED_S = 4 * _LIMIT_S


def build(say: Callable[[str], None]) -> Path:
    """The shared library for this machine, compiled if no earlier call has done so.

    Args:
        say: told in one line what is being done, where it takes time.

    Raises:
        SettingsError: there is no C++ compiler that can do it, or the cache folder cannot be written.
    """
    compiler = _compiler()
    library = cache_folder() / "kernels" / f"kernels-{_fingerprint(compiler)}.so"
    _clear_abandoned(library.parent)
    if not library.exists():
        say(f"compiling kernels for this machine with {compiler[0]}, once")
        try:
            _compile(compiler, library)
        except OSError as error:
            raise SettingsError(
                f"compiled kernels cannot be kept in {library.parent}: {error.strerror}; name a folder that can be "
                "written in ANYSIZE_CACHE"
            ) from error
    return library


def source_sha256() -> str:
    """Of what is compiled."""
    return hashlib.sha256(b"\0".join(part.read_bytes() for part in _PARTS)).hexdigest()


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    raise SettingsError(
        f"there is no C++ compiler (looked for {named[0] if named else 'c++, g++ and clang++'}); install one (on "
        "Debian and Ubuntu: apt install g++) or name it in CXX"
    )


def _compile(compiler: list[str], library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=library.parent) as folder:
        built = Path(folder) / "kernels.so"
        _run([*compiler, *_OPTIONS, "-shared", str(_SOURCE), "-o", str(built)])
        built.replace(library)


def _clear_abandoned(folder: Path) -> None:
    """Remove what processes have left that were killed while they compiled."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left)


def _fingerprint(compiler: list[str]) -> str:
    """Of all that the library depends on: the source, the compiler and what this processor can do."""
    macros = _run([*compiler, *_OPTIONS, "-dM", "-E", "-x", "c++", os.devnull])
    parts = (source_sha256().encode(), macros, *(word.encode() for word in (*compiler, *_OPTIONS)))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _run(command: list[str]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=_LIMIT_S)  # noqa: S603
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise SettingsError(
            f"{command[0]} cannot compile the kernels: {lines[0] if lines else 'it failed'}; it must know C++17. "
            "Name another compiler in CXX"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(f"{command[0]} cannot compile the kernels: {error}") from error
    return done.stdout
