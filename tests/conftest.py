"""Fixtures that many tests share."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch
from fakes import CPU, write_tiny_family
from transformers.utils import logging as transformers_logging

from anysize.family.family import Family

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# No test asserts a time: on a busy machine one example may take long.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
transformers_logging.disable_progress_bar()
# Tiny models are faster on one thread, and tests that run beside each other do not fight for cores.
torch.set_num_threads(1)


@pytest.fixture
def family_folder(tmp_path: Path) -> Path:
    """A tiny `delta` family on disk, one for each test, free to be damaged."""
    folder = tmp_path / "family"
    write_tiny_family(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A tiny family in memory; nobody changes it."""
    folder = tmp_path_factory.mktemp("tiny") / "family"
    write_tiny_family(folder)
    return Family.load(folder, dtype=torch.float32, device=CPU)
