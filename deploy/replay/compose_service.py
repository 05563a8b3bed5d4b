"""A service of docker-compose.yml as the options of `podman run`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from podman import ReplayError

PREFIX = "anysize-replay"
# What has to do with building, ports and when to start is the replay's own business.
_LEFT_ALONE = {"build", "image", "ports", "restart", "depends_on", "profiles"}


def _volume(text: str) -> list[str]:
    """A named volume under a name of our own; folders of the machine are left out."""
    return [] if text.startswith(("/", ".")) else [f"--volume={PREFIX}-{text}"]


_OPTIONS: dict[str, Callable[[Any], list[str]]] = {
    "read_only": lambda value: ["--read-only", "--read-only-tmpfs=false"] if value else [],
    "tmpfs": lambda paths: [f"--tmpfs={path}:rw,noexec,nosuid,nodev" for path in paths],
    "cap_drop": lambda names: [f"--cap-drop={name}" for name in names],
    "security_opt": lambda options: [f"--security-opt={option.removesuffix(':true')}" for option in options],
    "pids_limit": lambda count: [f"--pids-limit={count}"],
    "mem_limit": lambda size: [f"--memory={size}"],
    "init": lambda value: ["--init"] if value else [],
    "user": lambda user: [f"--user={user}"],
    "volumes": lambda texts: [option for text in texts for option in _volume(text)],
    "stop_grace_period": lambda text: [f"--stop-timeout={seconds(text)}"],
    "environment": lambda pairs: [f"--env={name}={value}" for name, value in pairs.items() if value is not None],
}


def service_of(file: Path, name: str) -> dict[str, Any]:
    """What a compose file says of a service."""
    return yaml.safe_load(file.read_text())["services"][name]


def run_options(service: dict[str, Any]) -> list[str]:
    """Options of `podman run`.

    Raises:
        ReplayError: it says something that is not known here.
    """
    if unknown := set(service) - _LEFT_ALONE - set(_OPTIONS):
        raise ReplayError(f"docker-compose.yml says {', '.join(sorted(unknown))}, which the replay does not know")
    return [option for key, value in service.items() if key in _OPTIONS for option in _OPTIONS[key](value)]


def seconds(text: str) -> int:
    """Of a duration such as 40s.

    Raises:
        ReplayError: it is written otherwise.
    """
    if not text.endswith("s") or not text[:-1].isdigit():
        raise ReplayError(f"{text!r} is no duration such as 40s")
    return int(text[:-1])
