"""Ways to damage a family folder and to make its manifest agree with the damage."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply a change to a JSON file. The file is made anew: it may be a hard link."""
    value = json.loads(path.read_text())
    change(value)
    put(path, json.dumps(value).encode())


def put(path: Path, content: bytes) -> None:
    """Give a file other bytes, under a new inode."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def list_again(folder: Path) -> None:
    """Make the manifest list the folder as it is now, as an attacker would."""
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in folder.rglob("*")
        if path.is_file() and path.name != "family.json"
    }
    change_json(folder / "family.json", lambda manifest: manifest.update(files=files))
