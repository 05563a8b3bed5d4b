"""Files that are either whole or not there, and hashes of them."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Write a folder that appears whole or not at all.

    Yields a temporary folder beside `target`. On a clean exit every file in it is flushed to disk, and it is renamed
    to `target`; on an error it is removed.

    Args:
        target: the folder to make.
        replace: whether a folder that is already there gives way; otherwise `FileExistsError`, also where it came
            to be in the meantime.
    """
    target = target.absolute()
    if target.exists() and not replace:
        raise FileExistsError(f"{target} exists already")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        building.chmod(0o755)
        yield building
        for path in building.rglob("*"):
            _readable(path)
            _flush(path)
        _flush(building)
        _put(building, target, replace=replace)
        _flush(target.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file in UTF-8 that is whole at every moment: what was there, or all of the new text."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    building = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _readable(building)
        building.replace(path)
    finally:
        building.unlink(missing_ok=True)


def _put(building: Path, target: Path, *, replace: bool) -> None:
    if not target.exists():
        try:
            building.rename(target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise FileExistsError(f"{target} exists already") from error
            raise
        return
    if not replace:
        raise FileExistsError(f"{target} exists already")
    old = building.with_suffix(".old")
    target.rename(old)
    try:
        building.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def _readable(path: Path) -> None:
    # safetensors makes files that their owner alone can read; a service often runs as another user. A hard link is
    # somebody else's file too and keeps its mode.
    if path.is_file() and path.stat().st_nlink == 1:
        path.chmod(0o644)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
