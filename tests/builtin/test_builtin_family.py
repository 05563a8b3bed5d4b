"""The family that ships, with its real weights: what README promises of it."""

import itertools
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from socket import socket

import httpx
import psutil
import pytest
import torch

from anysize.bench.build import bench_build
from anysize.family.family import Family, builtin_folder
from anysize.family.fetch import builtin_teacher

README = Path(__file__).parents[2] / "README.md"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def family() -> Family:
    return Family.builtin(dtype=torch.float32, device=CPU)


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """A service of its own process, as `anysize serve` starts it."""
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "anysize", "serve", "--port", str(port)], stderr=subprocess.PIPE, text=True
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        for _ in range(600):
            try:
                if client.get("/ready").status_code == 200:
                    break
            except httpx.TransportError:
                assert process.poll() is None, process.communicate()[1]
                time.sleep(0.2)
        yield client, psutil.Process(process.pid)
    process.terminate()
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 0, printed


def readme_requests() -> list[dict]:
    """The JSON bodies of README's curl commands."""
    joined = README.read_text().replace("\\\n", " ")
    commands = [shlex.split(line) for line in joined.splitlines() if line.startswith("curl ") and "/generate" in line]
    return [json.loads(words[words.index("-d") + 1]) for words in commands]


def test_readmes_requests_are_answered_each_by_another_variant(service) -> None:
    client, _ = service
    bodies = readme_requests()
    assert [body["budget"]["fraction"] for body in bodies] == [0.6, 0.8, 1.0]
    answers = [client.post("/generate", json=body) for body in bodies]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    parsed = [answer.json() for answer in answers]
    assert all(answer["text"].strip() for answer in parsed)
    assert len({answer["variant"]["id"] for answer in parsed}) == 3
    for body, answer in zip(bodies, parsed, strict=True):
        assert answer["variant"]["fraction"] <= body["budget"]["fraction"]
    assert "Paris" in parsed[-1]["text"]


def test_serving_every_size_takes_hardly_more_memory_than_serving_the_teacher(service) -> None:
    client, process = service

    def ask(variant: str) -> None:
        body = {"prompt": "The history of the bicycle begins with", "variant": variant, "max_tokens": 4}
        assert client.post("/generate", json=body).status_code == 200

    ask("teacher")
    after_teacher = process.memory_info().rss
    for variant in client.get("/variants").json()["variants"]:
        ask(variant["id"])
    assert process.memory_info().rss <= 1.05 * after_teacher


def test_the_ladder_has_a_dozen_sizes_and_begins_below_three_quarters(family: Family) -> None:
    assert len(family.ladder) >= 12
    assert family.ladder[0].fraction <= 0.75
    parameters = [size.footprint.parameters for size in family.ladder]
    assert parameters == sorted(set(parameters))
    assert family.ladder[-1] == family.teacher


def test_measured_perplexity_falls_with_size_and_training_was_worth_it(family: Family) -> None:
    manifest = family.manifest
    assert manifest is not None
    assert manifest.untrained is not None
    measured = {measurement.variant: measurement.perplexity for measurement in manifest.measurements}
    ladder = [measured[size.id] for size in family.ladder]
    assert all(larger <= 1.05 * smaller for smaller, larger in itertools.pairwise(ladder))
    assert ladder[-1] < ladder[0]
    assert manifest.untrained.perplexity >= 5 * measured["student"]


def test_assembling_any_size_adds_no_weight_bytes(family: Family) -> None:
    assert bench_build(family, 3)["new_weight_bytes"] == 0


def test_every_size_continues_a_text_as_transformers_does_with_and_without_cache(family: Family) -> None:
    ids = family.tokenizer("The sea is", return_tensors="pt").input_ids
    for size in (family.ladder[0], family.ladder[len(family.ladder) // 2], family.teacher):
        model = family.assemble(size.variant)
        cached, plain = (
            model.generate(ids, max_new_tokens=6, do_sample=False, use_cache=use_cache)  # pyright: ignore[reportCallIssue]
            for use_cache in (True, False)
        )
        assert torch.equal(cached, plain)


def test_the_package_data_is_small_and_names_no_path_of_the_machine_that_made_it() -> None:
    files = [path for path in builtin_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15 * 10**6
    for path in files:
        if path.suffix in {".json", ".md"}:
            assert not re.search(r'["\s=](/[a-z]+){2,}', path.read_text())


def test_the_command_that_made_the_student_is_in_its_card() -> None:
    assert "anysize-train distill --recipe smollm2-135m" in (builtin_folder() / "README.md").read_text()
    assert builtin_teacher().is_dir()
