"""`python -m anysize serve` as a process, for tests that signal it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from models import eventually
from serving import LIMIT_S


@contextmanager
def served(
    folder: Path, *options: str, said: list[str] | None = None
) -> Iterator[tuple["subprocess.Popen[str]", httpx.Client]]:
    """A service in a process of its own, on a port that it takes itself; `said` gets what it says until it serves."""
    process = serve(folder, *options)
    assert process.stderr is not None
    try:
        line = ""
        while "serving on" not in line:
            line = process.stderr.readline()
            if said is not None:
                said.append(line)
            assert line, "the service ended before it served"
        url = line.split("serving on ")[1].split(" ")[0]
        with httpx.Client(base_url=url, timeout=LIMIT_S, trust_env=False) as client:
            eventually(lambda: answers(client))
            yield process, client
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def serve(folder: Path, *options: str) -> "subprocess.Popen[str]":
    """The process alone, which may not serve yet."""
    command = [sys.executable, "-m", "anysize", "serve", "--family", str(folder), "--port", "0", "--threads", "1"]
    return subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=os.environ)


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        time.sleep(0.05)
        return False
