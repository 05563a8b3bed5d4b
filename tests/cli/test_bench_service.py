"""What `bench http` and `bench load` count, on a service of their own. No figure of time is asserted."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from anysize.bench.client import KINDS, run_client
from anysize.bench.cores import Cores, deal_cores
from anysize.bench.http import bench_http
from anysize.bench.load import bench_load
from anysize.errors import EngineError
from anysize.family.family import Family
from anysize.settings import Settings

ANYWHERE = Cores((0,), ())
BODY = {"prompt": "abc", "max_tokens": 2}


@pytest.fixture(scope="module")
def family(folder: Path) -> Family:
    return Family.load(folder, dtype=torch.float32, device=torch.device("cpu"))


class Scripted(BaseHTTPRequestHandler):
    """Answers as it was told to: a status, headers and a body for each request in turn, the last one for ever."""

    protocol_version = "HTTP/1.1"
    script: list[tuple[int, dict[str, str], bytes]]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, headers, body = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class PatientServer(ThreadingHTTPServer):
    """Says nothing of clients that leave when their time is over."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@pytest.fixture
def scripted() -> Iterator[str]:
    with PatientServer(("127.0.0.1", 0), Scripted) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def ask(kind: str, url: str, **job: Any) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            return await KINDS[kind](client, **job)

    return asyncio.run(run())


ANSWER = (200, {}, b'{"usage": {"completion_tokens": 3}}')


def test_http_answers_are_those_of_the_engine(family: Family, folder: Path):
    settings = Settings(family=folder, threads=1)

    report = bench_http(family, settings, ANYWHERE, requests=5, sizes=2, answer_tokens=6, rounds=1, say=lambda _: None)

    assert (report["benchmark"], report["requests"], report["sizes"]) == ("http", 5, 2)
    assert report["answers_unlike_engine"] == 0
    assert report["ratio_http_over_engine"] == report["http_tokens_per_s"] / report["engine_tokens_per_s"]
    assert report["ratio_http_without_client_cpu_over_engine"] > report["ratio_http_over_engine"]


def test_load_counts_answers_and_refusals_of_a_small_queue(family: Family, folder: Path):
    settings = Settings(family=folder, threads=1, max_running_requests=2, max_queued_requests=3, max_step_tokens=40)

    report = bench_load(
        family, settings, ANYWHERE, times=10, sizes=2, answer_tokens=60, warm_s=0, seconds=1.5, say=lambda _: None
    )

    assert report["queue_limit"] == 3
    assert 1 <= report["queue_largest_seen"] <= 3
    assert report["refused"] > 0
    assert report["refusals_without_retry_after"] == report["other_ends"] == 0
    assert report["refused_share"] == report["refused"] / (report["refused"] + report["answered"])
    assert report["ratio_goodput_over_capacity"] == pytest.approx(
        report["goodput_tokens_per_s"] / report["capacity_tokens_per_s"]
    )
    assert 0 < report["refusal_p50_ms"] <= report["refusal_p99_ms"] <= report["refusal_worst_ms"]


def test_a_closed_loop_counts_tokens_of_answers_alone(scripted: str):
    refusals = [(429, {"Retry-After": "2"}, b"{}"), (429, {}, b"{}"), (503, {}, b"broken")]
    Scripted.script = [*refusals, ANSWER]

    found = ask("closed", scripted, bodies=[BODY], clients=1, warm_s=0, seconds=0.5, seed=0)

    assert found["answered"] >= 1
    assert found["tokens"] == 3 * found["answered"]
    assert [has_header for _, has_header in found["refused"]] == [True, False]
    assert all(latency_ms > 0 for latency_ms, _ in found["refused"])
    assert found["others"] == ["broken"]


def test_nothing_counts_before_the_clock_runs(scripted: str):
    Scripted.script = [ANSWER]
    found = ask("closed", scripted, bodies=[BODY], clients=1, warm_s=0.5, seconds=0, seed=0)
    assert found == {"answered": 0, "tokens": 0, "refused": [], "others": []}


def test_an_open_loop_asks_at_its_rate_whatever_comes_back(scripted: str):
    """Twenty a second for two seconds: 40 on average; a seed makes it always the same number."""
    Scripted.script = [(429, {"Retry-After": "1"}, b"{}")]
    found = ask("opened", scripted, bodies=[BODY], rate_per_s=20, warm_s=0, seconds=2, seed=1)
    assert 25 <= len(found["refused"]) <= 55


def test_a_stream_that_ends_in_an_error_is_no_answer(scripted: str):
    Scripted.script = [(200, {}, b'event: text\ndata: {}\n\nevent: error\ndata: {"error": "model"}\n\n')]
    with pytest.raises(EngineError, match=r"ended in .*event: error"):
        ask("streams", scripted, bodies=[BODY])


def test_the_last_event_of_each_stream_is_its_answer(scripted: str):
    Scripted.script = [(200, {}, b'event: text\ndata: {"text": "a"}\n\nevent: done\ndata: {"text": "ab"}\n\n')]
    found = ask("streams", scripted, bodies=[BODY, BODY])
    assert found["answers"] == [{"text": "ab"}] * 2
    assert found["elapsed_s"] > 0
    assert found["cpu_s"] > 0


def test_clients_that_fail_are_told_of():
    with pytest.raises(EngineError, match=r"clients of the benchmark failed: .*ConnectError"):
        run_client("streams", "http://127.0.0.1:9", [], bodies=[BODY])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
@pytest.mark.parametrize(
    ("mine", "shared", "dealt"),
    [
        ({3}, False, Cores((3,), ())),
        ({0, 1}, False, Cores((0,), (1,))),
        ({0, 1}, True, Cores((0, 1), ())),
        ({2, 5, 7}, False, Cores((2, 5), (7,))),
    ],
    ids=str,
)
def test_clients_get_the_last_core(monkeypatch: pytest.MonkeyPatch, mine: set[int], shared: bool, dealt: Cores):
    kept: list[tuple[int, ...]] = [tuple(sorted(mine))]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: mine)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: kept.append(tuple(cores)))
    assert deal_cores(shared=shared) == dealt
    assert kept[-1] == dealt.service
