"""`python -m anysize serve` as a process: how it starts, and how it stops."""

import asyncio
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fakes import CPU
from models import KV_BYTES, eventually, running
from served import served
from serving import LIMIT_S
from typer.testing import CliRunner

from anysize.cli import app
from anysize.commands.serve import listening, warn_of_open_door
from anysize.engine.model import Model
from anysize.engine.request import GenerationRequest, Sampling
from anysize.family.family import Family
from anysize.settings import Settings

TOKENS = 240


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
    with served(folder, "--drain-s", "0") as (process, client), ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(client.post, "/generate", json=endless) for _ in range(24)]
        eventually(lambda: in_flight(client) + sum(one.done() for one in asked) == 24)
        process.send_signal(signal.SIGINT)
        answers = [one.result() for one in asked]
        failed = [answer.json()["error"]["type"] for answer in answers if answer.status_code == 503]
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert set(failed) == {"engine_unavailable"}
        assert process.wait(timeout=LIMIT_S) == 0


def test_keys_come_from_the_environment_and_metrics_have_a_port_of_their_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    key = "canary-key-0123456789"
    monkeypatch.setenv("ANYSIZE_API_KEYS", key)
    monkeypatch.setenv("ANYSIZE_ADMIN_PORT", "0")
    monkeypatch.setenv("ANYSIZE_LOG_LEVEL", "debug")
    said: list[str] = []
    with served(folder, said=said) as (process, client):
        ask = {"prompt": "a", "max_tokens": 1}
        assert client.post("/generate", json=ask).status_code == 401
        assert client.post("/generate", json=ask, headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert client.get("/metrics", headers={"Authorization": f"Bearer {key}"}).status_code == 404
        apart = next(line.split()[-1] for line in said if "metrics on" in line)
        assert apart.startswith("http://127.0.0.1:")
        metrics = httpx.get(apart, trust_env=False).text
        assert 'anysize_http_requests_total{method="POST",route="/generate",status="401"} 1.0' in metrics
        assert client.get("/ready", headers={"x-large": "a" * (1 << 20)}).status_code == 400
        assert client.get("/ready", headers={"x-large": "a" * (40 << 10)}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=LIMIT_S) == 0
        assert process.stderr is not None
        assert key not in "".join(said) + process.stderr.read()


@pytest.mark.parametrize(
    ("given", "is_told"),
    [({"host": "0.0.0.0"}, True), ({"host": "0.0.0.0", "api_keys": "a-key-of-their-own-0123"}, False), ({}, False)],
)
def test_a_service_that_strangers_reach_says_that_nobody_needs_a_key(given: dict[str, Any], is_told: bool):
    said: list[str] = []
    warn_of_open_door(Settings(**given), said.append)
    assert any("whoever reaches 0.0.0.0 may use this service" in one for one in said) == is_told


def test_a_port_for_metrics_that_is_taken_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("ANYSIZE_ADMIN_PORT", str(taken.getsockname()[1]))
        result = CliRunner().invoke(app, ["serve", "--family", str(folder), "--port", "0"])
    assert result.exit_code == 2
    assert "for metrics" in result.stderr.splitlines()[-1]


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
