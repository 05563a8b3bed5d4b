"""What serving every size costs in memory, over serving the teacher alone, measured on a service of its own."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from socket import socket
from typing import Any

import httpx
import psutil

from anysize.errors import EngineError

_START_LIMIT_S = 180
_PROMPT = "The history of the bicycle begins with"


def bench_memory(family: Path | None) -> dict[str, Any]:
    """Start a service, ask the teacher, read its resident memory, ask every size, read it again.

    Args:
        family: folder; the built-in family by default.

    Returns:
        Both figures in bytes and `ratio_all_sizes_over_teacher`.

    Raises:
        EngineError: the service does not come up or does not answer.
    """
    port = _free_port()
    command = [sys.executable, "-m", "anysize", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--family", str(family)] if family else []
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)  # noqa: S603
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            _await_ready(client, process)
            resident = psutil.Process(process.pid)
            sizes = [variant["id"] for variant in client.get("/variants").json()["variants"]]
            _ask(client, "teacher")
            teacher_bytes = resident.memory_info().rss
            for size in sizes:
                _ask(client, size)
            all_bytes = resident.memory_info().rss
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return {
        "benchmark": "memory",
        "sizes": len(sizes),
        "teacher_bytes": teacher_bytes,
        "all_sizes_bytes": all_bytes,
        "ratio_all_sizes_over_teacher": all_bytes / teacher_bytes,
    }


def _ask(client: httpx.Client, variant: str) -> None:
    answer = client.post("/generate", json={"prompt": _PROMPT, "variant": variant, "max_tokens": 8})
    if answer.status_code != httpx.codes.OK:
        raise EngineError(f"the service answered {answer.status_code} for variant {variant}: {answer.text[:200]}")


def _await_ready(client: httpx.Client, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.TransportError):
            if client.get("/ready").status_code == httpx.codes.OK:
                return
        time.sleep(0.2)
    raise EngineError("the service did not come up; try `anysize serve` to see why")


def _free_port() -> int:
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
