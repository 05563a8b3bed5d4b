"""A service that is killed under load comes back on the same address, and leaves nothing behind."""

import hashlib
import os
import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import write_tiny_family
from served import serve, served

ASK = {"prompt": "The sea is", "max_tokens": 12, "variant": "student"}
_CLIENTS = 6


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """What files hold, and when they were last written."""
    return {
        path.relative_to(folder).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def ask_on(client: httpx.Client, seed: int, is_killed: Callable[[], bool]) -> int:
    """Ask for one answer after another until the service is gone; how many came whole."""
    chance, whole = random.Random(seed), 0
    while not is_killed():
        body: dict[str, Any] = {"prompt": "x" * chance.randint(1, 60), "max_tokens": chance.randint(1, 60)}
        if chance.random() < 0.5:
            body |= {"resize": True, "stream": True, "budget": {"min_parameters": 1}}
        try:
            with client.stream("POST", "/generate", json=body) as response:
                assert response.status_code in {200, 429, 503}
                response.read()
                whole += 1
        except httpx.TransportError:
            time.sleep(0.01)
    return whole


def kill_in_the_compiler(folder: Path, kernels: Path) -> None:
    process = serve(folder)
    assert process.stderr is not None
    with process, process.stderr:
        assert any("compiling kernels" in line for line in process.stderr)
        while not any(kernels.glob(".kernels.*/*")):
            time.sleep(0.01)
        process.kill()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "kills", [pytest.param(2, marks=pytest.mark.fault), pytest.param(20, marks=pytest.mark.nightly)]
)
def test_a_service_that_is_killed_comes_back(kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, cache, temporary = tmp_path / "family", tmp_path / "cache", tmp_path / "tmp"
    write_tiny_family(folder)
    temporary.mkdir()
    monkeypatch.setenv("ANYSIZE_CACHE", str(cache))
    monkeypatch.setenv("TMPDIR", str(temporary))
    before = contents(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    kill_in_the_compiler(folder, cache / "kernels")
    chance, texts = random.Random(kills), set()
    for number in range(kills):
        with served(folder, "--port", str(port)) as (process, client), ThreadPoolExecutor(_CLIENTS) as pool:
            texts.add(client.post("/generate", json=ASK).json()["text"])
            loads = [
                pool.submit(
                    ask_on, client, number * _CLIENTS + place, lambda process=process: process.poll() is not None
                )
                for place in range(_CLIENTS)
            ]
            time.sleep(chance.uniform(0, 2))
            process.kill()
            process.wait()
            assert all(load.result() >= 0 for load in loads)
    # Only what was left in the compiler is still there, and goes once nobody can be at it any more.
    (left,) = (cache / "kernels").glob(".kernels.*")
    os.utime(left, (0, 0))
    with served(folder, "--port", str(port)) as (_, client):
        texts.add(client.post("/generate", json=ASK).json()["text"])
    assert len(texts) == 1
    assert contents(folder) == before
    assert [path.suffix for path in cache.rglob("*") if path.is_file()] == [".so"]
    assert not any(temporary.iterdir())
