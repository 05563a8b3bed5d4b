"""How much memory keys and values get where nobody says."""

from pathlib import Path

import psutil
import pytest
import torch
from fakes import ARCHITECTURES, CPU, tiny_bank
from transformers import DynamicCache

from anysize.engine import memory
from anysize.engine.memory import default_kv_bytes, free_bytes, token_bytes
from anysize.engine.model import Model
from anysize.family.variant import Variant


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_token_takes_what_transformers_cache_of_the_teacher_holds(architecture: str):
    bank = tiny_bank(architecture)
    cache = DynamicCache(config=bank.teacher.config)
    with torch.inference_mode():
        bank.teacher(input_ids=torch.tensor([[3, 4, 5]]), past_key_values=cache)
    stored = [getattr(layer, name) for layer in cache.layers for name in ("keys", "values")]
    held = sum(part.numel() * part.element_size() for part in stored)
    assert token_bytes(bank) * 3 == held


def test_a_quarter_of_what_is_free_is_taken(monkeypatch: pytest.MonkeyPatch):
    bank = tiny_bank("llama")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4 << 20)
    assert default_kv_bytes(bank, answers=32, context_tokens=100_000) == 1 << 20


def test_no_more_is_taken_than_all_answers_can_use():
    bank = tiny_bank("llama")
    wanted = default_kv_bytes(bank, answers=3, context_tokens=64)
    model = Model(bank, kv_bytes=wanted)
    teacher = Variant.teacher(bank.blocks.student_layers)
    assert all(model.reserve(teacher, 64) is not None for _ in range(3))
    assert model.free_pages == 0


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [("max", "5", None), ("1000", "400", 600), ("1000", "4000", 0), (str(1 << 60), "0", None)],
)
def test_the_limit_of_a_container_counts(
    tmp_path: Path, limit: str, used: str, free: int | None, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    machine = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    assert free_bytes(CPU, tmp_path) == (machine.available if free is None else free)
    assert free_bytes(CPU, tmp_path / "nowhere") == machine.available
