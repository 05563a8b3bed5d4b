"""A family on disk for the commands."""

from pathlib import Path

import pytest
from fakes import write_tiny_family


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny family; nobody changes it."""
    folder = tmp_path_factory.mktemp("cli") / "family"
    write_tiny_family(folder)
    return folder
