"""What the service asks of the machine, watched by Python's own audit events in a process of its own."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# "socket.connect" is what the watched process itself must never do; its own listener is bound, not connected.
_WATCHED = """
    import json, sys
    reached = {
        "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn",
        "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "urllib.Request", "pickle.find_class",
    }
    seen = []
    is_watching = [True]

    def watch(event, arguments):
        if event in reached and is_watching[0]:
            seen.append(event)

    sys.addaudithook(watch)
    import anysize.cli
    import anysize.commands.serve
    import anysize.api.app
    report = {"import": sorted(set(seen))}
    seen.clear()

    from pathlib import Path
    import torch
    from anysize.api.app import create_app
    from anysize.commands.serve import load_family, load_model
    from anysize.settings import Settings

    settings = Settings(family=Path(sys.argv[1]), kv_bytes=8 << 20, rate_limit="9/day", api_keys="a-key-0123456789")
    family = load_family(settings)
    app = create_app(settings, family, load_model(settings, family, None))
    report["load"] = sorted(set(seen))
    seen.clear()

    import asyncio

    async def ask(path, body):
        sent, given = [], [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        headers = [(b"content-type", b"application/json"), (b"authorization", b"Bearer a-key-0123456789")]

        async def receive():
            return given.pop() if given else await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "scheme": "http",
            "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0", "spec_version": "2.3"},
        }
        await app(scope, receive, send)
        return sent[0]["status"]

    async def serve():
        async with app.router.lifespan_context(app):
            say = [{"role": "user", "content": "a"}]
            yes_or_no = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
            return [
                await ask("/generate", {"prompt": "abc", "max_tokens": 2}),
                await ask("/generate", {"messages": say, "max_tokens": 2, "stream": True}),
                await ask("/v1/chat/completions", {"model": "tiny", "messages": say, "max_tokens": 9,
                          "response_format": yes_or_no}),
            ]

    report["statuses"] = asyncio.run(serve())
    report["serve"] = sorted(set(seen))
    seen.clear()
    if len(sys.argv) > 2:
        import socket, pickle, subprocess
        pickle.loads(pickle.dumps(Settings))
        subprocess.run(["true"])
        with socket.socket() as probe:
            probe.connect_ex(("127.0.0.1", 9))
        report["planted"] = sorted(set(seen))
    is_watching[0] = False
    print(json.dumps(report))
"""


def watched(folder: Path, *planted: str) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_WATCHED), str(folder), *planted],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(300)
def test_import_load_and_requests_reach_nothing_and_start_nothing(family_folder: Path):
    report = watched(family_folder, "planted")
    assert report["import"] == []
    assert report["load"] == []
    assert report["statuses"] == [200, 200, 200]
    assert report["serve"] == []
    # The watcher sees what it is there for.
    assert set(report["planted"]) >= {"pickle.find_class", "socket.connect", "subprocess.Popen"}
