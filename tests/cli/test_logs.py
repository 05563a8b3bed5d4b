"""What `anysize serve` writes to its log: one line a request, and nothing that a client wrote."""

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from models import eventually
from serving import LIMIT_S

from anysize.commands.logs import TextLines, set_up_logs
from anysize.settings import Settings

SECRET = "canary7f3a"


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def _send_secrets(client: httpx.Client) -> None:
    """The secret everywhere that a client can write."""
    keys = {"authorization": f"Bearer {SECRET}", "x-api-key": SECRET, "cookie": SECRET, "x-request-id": f"{SECRET} !"}
    client.headers.update(keys)
    query = {"key": SECRET}
    ask = {"max_tokens": 2, "variant": "student"}
    assert client.post("/generate", json={"prompt": SECRET, **ask}, params=query).status_code == 200
    assert client.post("/generate", json={"messages": [{"role": "user", "content": SECRET}], **ask}).status_code == 200
    assert client.post("/generate", json={"prompt": SECRET, "stream": True, **ask}).status_code == 200
    for wrong in ({"prompt": 1, SECRET: 1}, {"prompt": SECRET, "variant": SECRET}, {"prompt": SECRET, "stop": {}}):
        assert client.post("/generate", json=wrong).status_code == 422
    assert client.post("/generate", content=f'{{"prompt": "{SECRET}'.encode()).status_code == 422
    assert client.post("/generate", content=SECRET.encode(), headers={"content-encoding": SECRET}).status_code == 415
    assert client.get(f"/{SECRET}", params=query).status_code == 404
    assert client.request(SECRET.upper(), "/generate").status_code == 405
    assert client.request("GET", "/generate", params=query).status_code == 405


def test_no_log_holds_what_a_client_wrote(folder: Path, tmp_path: Path):
    log = tmp_path / "log"
    command = [sys.executable, "-m", "anysize", "serve", "--family", str(folder), "--port", "0", "--no-compile"]
    options = ["--log-format", "json", "--log-level", "debug"]
    with log.open("w") as stream:
        process = subprocess.Popen([*command, *options], stderr=stream, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        eventually(lambda: "serving on " in log.read_text() or process.poll() is not None)
        url = log.read_text().split("serving on ")[1].split(" ")[0]
        with httpx.Client(base_url=url, timeout=LIMIT_S, trust_env=False) as client:
            eventually(lambda: _ready(client))
            _send_secrets(client)
            # The last line is there before the next answer is.
            client.get("/health")
    finally:
        process.terminate()
        assert process.wait(LIMIT_S) == 0
    written = log.read_text()
    assert SECRET not in written.lower()
    read: list[dict[str, Any]] = [json.loads(line) for line in written.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in read)
    asked = [line for line in read if line["message"] == "request" and line["route"] not in ("/ready", "/health")]
    assert [line["status"] for line in asked] == [200, 200, 200, 422, 422, 422, 422, 415, 404, 405, 405]
    assert {line["variant"] for line in asked[:3]} == {"student"}
    assert any(line["level"] == "debug" and line["route"] == "/health" for line in read if "route" in line)
    assert any(line["message"].startswith("stopping") for line in read)


def test_for_people_fields_follow_the_line():
    record = logging.LogRecord("anysize.requests", logging.INFO, "", 0, "request", (), None)
    record.__dict__["fields"] = {"route": "/generate", "status": 200, "tpot_ms": None, "ttft_ms": 1.5}
    line = TextLines().format(record)
    assert line.endswith("INFO anysize.requests: request route=/generate status=200 ttft_ms=1.5")


def test_lines_go_to_standard_error_as_it_is_by_then(monkeypatch: pytest.MonkeyPatch):
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        closed = io.StringIO()
        monkeypatch.setattr(sys, "stderr", closed)
        set_up_logs(Settings())
        closed.close()
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        logging.getLogger("anysize").info("here")
        assert sys.stderr.getvalue().endswith("INFO anysize: here\n")  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        root.handlers, root.level = handlers, level
