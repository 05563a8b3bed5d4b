"""`python -m anysize serve` as a process: how it starts, and how it stops."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from fakes import CPU
from models import KV_BYTES, eventually, running
from serving import LIMIT_S
from typer.testing import CliRunner

from anysize.cli import app
from anysize.commands.serve import listening
from anysize.engine.model import Model
from anysize.engine.request import GenerationRequest, Sampling
from anysize.family.family import Family

TOKENS = 100


@contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple["subprocess.Popen[str]", httpx.Client]]:
    """A service in a process of its own, on a port that it takes itself."""
    command = [sys.executable, "-m", "anysize", "serve", "--family", str(folder), "--port", "0", "--threads", "1"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr is not None
    try:
        line = ""
        while "serving on" not in line:
            line = process.stderr.readline()
            assert line, "the service ended before it served"
        url = line.split("serving on ")[1].split(" ")[0]
        with httpx.Client(base_url=url, timeout=LIMIT_S, trust_env=False) as client:
            eventually(lambda: answers(client))
            yield process, client
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        time.sleep(0.05)
        return False


@pytest.fixture(scope="module")
def endless(folder: Path) -> dict[str, object]:
    """A request whose answer is as long as asked for."""
    family = Family.load(folder, dtype=torch.float32, device=CPU)
    with running(family, Model(family.bank, kv_bytes=KV_BYTES)) as engine:
        for seed in range(200):
            sampling = Sampling(max_tokens=TOKENS, temperature=1.0, seed=seed)
            request = GenerationRequest(
                id="x", prompt_ids=family.tokenizer("abc").input_ids, size=family.teacher, sampling=sampling
            )
            if engine.submit(request).result(timeout=LIMIT_S).finish_reason == "length":
                return {"prompt": "abc", "max_tokens": TOKENS, "temperature": 1.0, "seed": seed}
    raise AssertionError("no such request")


def in_flight(client: httpx.Client) -> int:
    health = client.get("/health").json()
    return health["waiting"] + health["running"]


def test_asked_to_stop_it_answers_what_it_has_and_exits_with_0(folder: Path, endless: dict[str, object]):
    with served(folder) as (process, client), ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(client.post, "/generate", json=endless) for _ in range(5)]
        eventually(lambda: in_flight(client) + sum(one.done() for one in asked) == 5)
        process.send_signal(signal.SIGTERM)
        codes: set[int] = set()
        while process.poll() is None:
            try:
                # A connection of its own: the listener is what must refuse.
                with httpx.Client(base_url=client.base_url, verify=False, trust_env=False) as newcomer:
                    codes.add(newcomer.post("/generate", json={"prompt": "a", "max_tokens": 1}).status_code)
            except httpx.TransportError:
                time.sleep(0.2)
        # One that slipped in before the listener closed is answered like any other; none is left hanging.
        assert codes <= {200, 503}
        assert [one.result().status_code for one in asked] == [200] * 5
        assert process.returncode == 0


def test_what_is_not_done_at_the_limit_gets_an_error_and_no_cut_connection(folder: Path, endless: dict[str, object]):
    with served(folder, "--drain-s", "0") as (process, client), ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(client.post, "/generate", json=endless) for _ in range(5)]
        eventually(lambda: in_flight(client) + sum(one.done() for one in asked) == 5)
        process.send_signal(signal.SIGINT)
        answers = [one.result() for one in asked]
        failed = [answer.json()["error"]["type"] for answer in answers if answer.status_code == 503]
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert set(failed) == {"engine_unavailable"}
        assert process.wait(timeout=LIMIT_S) == 0


def test_a_port_that_is_taken_is_one_line_before_any_weight_is_loaded(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["serve", "--family", str(folder), "--port", port])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(f"error: cannot listen on 127.0.0.1 port {port}")
    assert "checking and loading" not in result.stderr


def test_a_host_that_is_not_there_is_one_line(folder: Path):
    result = CliRunner().invoke(app, ["serve", "--family", str(folder), "--host", "192.0.2.1", "--port", "0"])
    assert result.exit_code == 2
    assert "cannot listen on 192.0.2.1" in result.stderr


def test_short_responses_on_a_kept_connection_wait_for_no_acknowledgement():
    async def accepted() -> int:
        options: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def look(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            options.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listening("127.0.0.1", 0) as listener:
            async with await asyncio.start_server(look, sock=listener):
                _reader, writer = await asyncio.open_connection(*listener.getsockname())
                found = await options
                writer.close()
                return found

    assert asyncio.run(accepted())
