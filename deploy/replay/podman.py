"""Podman, which builds a Dockerfile and runs what came of it without an engine in the background."""

import resource
import subprocess
from pathlib import Path

_LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
_LARGEST = 16384
_HYBRID_CGROUPS = Path("/sys/fs/cgroup/unified")


class ReplayError(Exception):
    """Something that the Dockerfile or compose file promises is not so, or a tool is missing."""


def podman(*arguments: str, check: bool = True, log: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run podman.

    Args:
        arguments: of the command line.
        check: whether it has to succeed.
        log: a file that is given all output, instead of the caller.

    Raises:
        ReplayError: it is not here, or it failed.
    """
    # crun cannot run containers where both versions of control groups are mounted.
    command = ["podman", *(["--runtime", "runc"] if _HYBRID_CGROUPS.is_dir() else []), *arguments]
    try:
        if log is None:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        else:
            with log.open("a") as file:
                done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, text=True, check=False)
    except FileNotFoundError as error:
        raise ReplayError("podman is not on this machine: apt install podman runc") from error
    if check and done.returncode != 0:
        text = log.read_text() if log is not None else done.stderr
        raise ReplayError(f"podman {arguments[0]} failed: " + " | ".join(text.strip().splitlines()[-5:]))
    return done


def limits() -> list[str]:
    """Options that ask for no higher limits than this machine allows."""
    options: list[str] = []
    for name, kind in _LIMITS.items():
        hard = resource.getrlimit(kind)[1]
        limit = _LARGEST if hard == resource.RLIM_INFINITY else min(hard, _LARGEST)
        options.append(f"--ulimit={name}={limit}:{limit}")
    return options
