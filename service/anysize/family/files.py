"""Files that are either whole or not there, and hashes of them."""

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
        replace: whether a folder that is already there gives way; otherwise `FileExistsError`.
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
            _flush(path)
        _flush(building)
        if target.exists():
            old = building.with_suffix(".old")
            target.rename(old)
            building.rename(target)
            shutil.rmtree(old)
        else:
            building.rename(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
