"""What serving every size costs in memory, over serving the teacher alone, measured on a service of its own."""

from pathlib import Path
from typing import Any

import httpx
import psutil

from anysize.bench.service import running_service
from anysize.errors import EngineError

_PROMPT = "The history of the bicycle begins with"


def bench_memory(family: Path | None) -> dict[str, Any]:
    """Start a service, ask the teacher, read its resident memory, ask every size, read it again.

    Args:
        family: folder; the built-in one by default.

    Returns:
        Both figures in bytes and `ratio_all_sizes_over_teacher`.

    Raises:
        EngineError: the service does not come up or does not answer.
    """
    with running_service(family) as service, service.client() as client:
        resident = psutil.Process(service.pid)
        sizes = [variant["id"] for variant in client.get("/variants").json()["variants"]]
        _ask(client, "teacher")
        teacher_bytes = resident.memory_info().rss
        for size in sizes:
            _ask(client, size)
        all_bytes = resident.memory_info().rss
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
