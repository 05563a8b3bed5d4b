"""Anysize on Ray Serve, for real: two replicas under a mixed load, one of which is killed."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from dashboard import REPOSITORY
from fakes import write_tiny_family

REPLICAS = 2
REQUESTS = 96
CLIENTS = 12
LIMIT_S = 500
POOL = Path(__file__).with_name("ray_pool.py")

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1500)]


@dataclass(frozen=True, slots=True)
class Pool:
    """Ray's processes and where they are asked."""

    process: "subprocess.Popen[str]"
    url: str

    def replicas(self) -> set[int]:
        """Process ids of the replicas that live."""
        found = set()
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if (
                    "ServeReplica:anysize:Anysize" in " ".join(process.cmdline())
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.add(process.pid)
            except psutil.NoSuchProcess:
                continue
        return found

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=LIMIT_S, trust_env=False)


@contextmanager
def running_pool(folder: Path) -> Iterator[Pool]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    paths = [*(str(REPOSITORY / name) for name in ("service", "deploy/ray")), os.environ.get("PYTHONPATH", "")]
    given = {"PYTHONPATH": os.pathsep.join(paths), "RAY_USAGE_STATS_ENABLED": "0", "ANYSIZE_COMPILE": "false"}
    # Ray gives its proxy 5 s to get ready and starts another after that, which a busy machine does not keep up with.
    given |= {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60"}
    command = [sys.executable, str(POOL), str(folder), str(REPLICAS), str(port)]
    environment = {**os.environ, **given}
    with (folder.parent / "ray.out").open("w+") as output, (folder.parent / "ray.log").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=log, text=True, env=environment
        )
        pool = Pool(process, f"http://127.0.0.1:{port}")
        try:
            within_limit(pool, lambda: "serving\n" in Path(output.name).read_text())
            yield pool
        finally:
            # It ends by itself once its input does; what has not by then is killed.
            left = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=60)
            for child in [*left, process]:
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    child.kill()
            process.wait()


def within_limit(pool: Pool, is_so: Any) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        assert pool.process.poll() is None
        time.sleep(0.2)


def ask(pool: Pool, body: dict[str, Any]) -> str:
    """How a request ended: `answered`, or the error in the words of the service; anything else is no clear end."""
    with pool.client() as client:
        if not body["stream"]:
            response = client.post("/generate", json=body)
            return "answered" if response.status_code == 200 and response.json()["text"] else error_of(response.text)
        with client.stream("POST", "/generate", json=body) as response:
            text = "".join(response.iter_text())
    if response.status_code != 200:
        return error_of(text)
    event, data = text.strip().split("\n\n")[-1].split("\n", 1)
    return "answered" if event == "event: done" else error_of(data.removeprefix("data: "))


def error_of(text: str) -> str:
    return json.loads(text)["error"]["type"]


def bodies(pool: Pool) -> list[dict[str, Any]]:
    chance = random.Random(0)
    with pool.client() as client:
        sizes = [one["id"] for one in client.get("/variants").json()["variants"]]
    return [
        {
            "prompt": "abc" * chance.randint(1, 8),
            "variant": chance.choice(sizes),
            "max_tokens": chance.randint(20, 50),
            "temperature": 1.0,
            "seed": index,
            "stream": index % 2 == 0,
        }
        for index in range(REQUESTS)
    ]


def test_a_replica_that_is_killed_under_load_costs_no_request_its_end_and_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not here: pip install 'anysize[ray]'")
    folder = tmp_path / "family"
    write_tiny_family(folder)
    with running_pool(folder) as pool, ThreadPoolExecutor(CLIENTS) as clients:
        before = pool.replicas()
        assert len(before) == REPLICAS
        asked = [clients.submit(ask, pool, body) for body in bodies(pool)]
        within_limit(pool, lambda: sum(one.done() for one in asked) >= REQUESTS // 8)
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        ends = Counter(one.result() for one in asked)
        assert set(ends) <= {"answered", "engine_unavailable"}, ends
        # At most those that the victim had in hand when it died.
        assert ends["engine_unavailable"] <= CLIENTS, ends
        within_limit(pool, lambda: len(pool.replicas() - {victim}) == REPLICAS)
        assert Counter(clients.map(lambda body: ask(pool, body), bodies(pool)[:20])) == {"answered": 20}
