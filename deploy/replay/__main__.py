"""Build the Dockerfile and run what docker-compose.yml says of it, without a Docker engine: `python deploy/replay`.

Podman builds each target from the Dockerfile itself and runs it with the options that stand in docker-compose.yml (as
`compose_service.py` reads them), so nothing is said twice. Where the base image cannot be pulled, a Debian of the same
release stands in for it. pip in the build takes packages from where pip on this machine does. Needs root, podman,
runc, and debootstrap for the stand-in.
"""

import argparse
import json
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clients import generate, streams_through_stop, wait_until_ready
from compose_service import PREFIX, run_options, seconds, service_of
from pip_settings import PipSettings
from podman import ReplayError, limits, podman
from stand_in import make_stand_in

ROOT = Path(__file__).parents[2]
_BASE = re.compile(r"^ARG PYTHON_IMAGE=(python:(\d+\.\d+)-slim-(\w+))$", re.MULTILINE)
_TARGETS = ("service", "training")
_STREAMS = 50
_STREAM_TOKENS = 12
_READY_WITHIN_S = 240
_PROBE = Path(__file__).with_name("probe.py")
_LOCKED = {
    "uid": 10001,
    "gid": 10001,
    "capabilities": 0,
    "no_new_privileges": True,
    "writable": ["/tmp", "/var/lib/anysize/kernels"],
}


def main() -> int:
    """Build, run and check; one line for what is being done, and a JSON object of what was found."""
    parser = argparse.ArgumentParser(prog="replay", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", action="store_true", help="keep the images")
    parser.add_argument("--cached", action="store_true", help="take over steps of an earlier build that are unchanged")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    try:
        _remove_volumes()  # of a run that was interrupted
        base = _base_image(found)
        for target in _TARGETS:
            with _timed(found, f"build_{target}_s"):
                _build(target, base, cached=given.cached or target == "training")
        _check_service(found)
        _check_training(found)
    except ReplayError as error:
        _say(f"error: {error}")
        return 1
    finally:
        _clean(keep_images=given.keep)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


def _base_image(found: dict[str, Any]) -> str:
    match = _BASE.search((ROOT / "Dockerfile").read_text())
    if match is None:
        raise ReplayError("the Dockerfile has no line such as ARG PYTHON_IMAGE=python:3.11-slim-bookworm")
    image, version, suite = match.groups()
    if podman("pull", "--quiet", f"docker.io/library/{image}", check=False).returncode == 0:
        return f"docker.io/library/{image}"
    with _timed(found, "stand_in_s"):
        return make_stand_in(suite, version, _say)


def _build(target: str, base: str, *, cached: bool) -> None:
    _say(f"building the target {target}")
    pip = PipSettings.of_this_machine()
    with tempfile.TemporaryDirectory(prefix="anysize-replay-") as folder:
        file, log = Path(folder) / "pip.conf", Path(folder) / "build.log"
        file.write_text(pip.text)
        mounts = [f"--volume={file}:/etc/pip.conf:ro", *(f"--volume={path}:{path}:ro" for path in pip.paths)]
        # With an index of this machine's own, the public one with CPU builds of torch is left out.
        index = ["--build-arg=TORCH_INDEX="] if {"index-url", "extra-index-url", "find-links"} & set(pip.values) else []
        cache = "--layers" if cached else "--no-cache"
        options = ["--format=docker", "--isolation=chroot", "--network=host", "--pull=never", cache]
        arguments = [
            f"--build-arg=PYTHON_IMAGE={base}",
            *index,
            *mounts,
            f"--target={target}",
            f"--tag={_image(target)}",
        ]
        podman("build", *options, *arguments, str(ROOT), log=log)


def _check_service(found: dict[str, Any]) -> None:
    service = service_of(ROOT / "docker-compose.yml", "service")
    grace_s = seconds(service["stop_grace_period"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url, name = f"http://127.0.0.1:{port}", f"{PREFIX}-service"
    place = ["--network=host", "--env=ANYSIZE_HOST=127.0.0.1", f"--env=ANYSIZE_PORT={port}"]
    podman("run", "--detach", f"--name={name}", *place, *limits(), *run_options(service), _image("service"))
    try:
        _say("waiting for the service")
        with _timed(found, "start_s"):
            if not wait_until_ready(url, lambda: not _state(name)["Running"], _READY_WITHIN_S):
                raise ReplayError("the service did not get ready: " + " | ".join(_log(name)[-5:]))
        found["log"] = _log(name)
        podman("healthcheck", "run", name)
        found["locked"] = _locked(name)
        answer = generate(url, {"prompt": "The history of the bicycle", "max_tokens": 8, "budget": {"fraction": 0.7}})
        found["answer"] = {"text": answer["text"], "variant": answer["variant"]["id"]}
        _say(f"stopping it with {_STREAMS} streams open")
        body = {"prompt": "The history of the bicycle", "max_tokens": _STREAM_TOKENS}
        bodies = [{**body, "budget": {"fraction": 0.6 + 0.4 * (i % 5) / 4}} for i in range(_STREAMS)]
        started_s = time.monotonic()
        ends = streams_through_stop(url, bodies, lambda: _stop(name, found))
        found["streams_s"] = round(time.monotonic() - started_s, 1)
        found["streams_done"] = ends.count("done")
        found["exit_code"] = _state(name)["ExitCode"]
        if ends != ["done"] * _STREAMS or found["exit_code"] != 0 or found["stop_s"] > grace_s:
            raise ReplayError(f"the service did not stop as it should: {sorted(set(ends))}, {found}")
    finally:
        podman("rm", "--force", "--time=1", name, check=False)


def _locked(name: str) -> dict[str, Any]:
    probe = json.loads(podman("exec", name, "python", "-c", _PROBE.read_text()).stdout)
    if probe != _LOCKED:
        raise ReplayError(f"the container is not locked as docker-compose.yml says: {probe}")
    return probe


def _check_training(found: dict[str, Any]) -> None:
    _say("running the recipe tiny")
    options = run_options(service_of(ROOT / "docker-compose.yml", "training"))
    run = ["run", "--rm", "--network=none", *limits(), *options]
    with _timed(found, "training_s"):
        podman(*run, _image("training"), "distill", "--recipe", "tiny", "--out", "/runs/tiny")
    listed = podman(*run, "--entrypoint=ls", _image("training"), "/runs/tiny", "/runs/tiny/family").stdout.split()
    missing = {"log.jsonl", "checkpoints", "family.json", "student.safetensors"} - set(listed)
    if missing:
        raise ReplayError(f"training left no {', '.join(sorted(missing))}")
    found["trained"] = listed


def _stop(name: str, found: dict[str, Any]) -> None:
    with _timed(found, "stop_s"):
        podman("stop", name)


def _state(name: str) -> dict[str, Any]:
    return json.loads(podman("inspect", "--format={{json .State}}", name).stdout)


def _log(name: str) -> list[str]:
    done = podman("logs", name)
    return (done.stdout + done.stderr).strip().splitlines()


def _clean(*, keep_images: bool) -> None:
    _remove_volumes()
    if not keep_images:
        for target in _TARGETS:
            podman("rmi", _image(target), check=False)
        podman("image", "prune", "--force", check=False)


def _remove_volumes() -> None:
    for volume in podman("volume", "ls", "--quiet", f"--filter=name={PREFIX}", check=False).stdout.split():
        podman("volume", "rm", "--force", volume, check=False)


def _image(target: str) -> str:
    return f"localhost/{PREFIX}-{target}"


@contextmanager
def _timed(found: dict[str, Any], key: str) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    found[key] = round(time.monotonic() - started_s, 1)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
