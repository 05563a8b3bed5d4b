"""A service that may take hardly any more memory, and is asked for four times the pages that it has."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fakes import write_tiny_family
from models import eventually
from served import served

KV_BYTES = 1 << 20
# Less than a thread's stack, and than the answers that are held together. Without even the memory for the text of one
# answer the libraries that write it end the process.
MORE_BYTES = 4 << 20
CLIENTS = 48
REQUESTS = 96


def bodies() -> list[dict[str, Any]]:
    chance = random.Random(0)
    return [
        {
            **({"messages": [{"role": "user", "content": "x" * 100}]} if number % 3 == 0 else {"prompt": "x" * 100}),
            "max_tokens": chance.randint(20, 60),
            "n": 2,
            "logprobs": 5,
            "stream": number % 2 == 0,
        }
        for number in range(REQUESTS)
    ]


def ask(client: httpx.Client, body: dict[str, Any]) -> str:
    """How a request ended: a status, and of a stream its last event."""
    with client.stream("POST", "/generate", json=body) as response:
        text = "".join(response.iter_text())
    if response.status_code != 200 or not body["stream"]:
        return str(response.status_code)
    return text.strip().split("\n\n")[-1].split("\n")[0]


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


@pytest.mark.fault
@pytest.mark.timeout(1500)
def test_a_service_without_memory_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_tiny_family(tmp_path / "family")
    for name, value in {"KV_BYTES": KV_BYTES, "COMPILE": "false", "LOG_LEVEL": "warning"}.items():
        monkeypatch.setenv(f"ANYSIZE_{name}", str(value))
    with served(tmp_path / "family") as (process, client), ThreadPoolExecutor(CLIENTS) as pool:
        for body in bodies()[:4]:
            ask(client, body)
        most = psutil.Process(process.pid).memory_info().vms + MORE_BYTES
        psutil.Process(process.pid).rlimit(psutil.RLIMIT_AS, (most, most))
        ends = Counter(pool.map(lambda body: ask(client, body), bodies()))
        assert process.poll() is None
        assert set(ends) <= {"200", "429", "503", "event: done", "event: error"}, ends
        eventually(lambda: metric(client, "anysize_kv_pages_used") == 0)
        assert ask(client, {"prompt": "abc", "max_tokens": 2, "stream": False}) == "200"
        assert client.get("/health").status_code == 200
