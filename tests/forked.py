"""Processes that have imported the training pipeline already: forks of a server that has done so once."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["forked", "killed", "anysize_training.distill.pipeline", "torch.distributed.fsdp"])


def in_processes(count: int, target: Callable[..., None], *arguments: Any) -> list[int]:
    """Run a function in some processes that know each other, as `torchrun` would; their exit codes.

    Exit codes are negative for signals, as in `subprocess`.
    """
    port = _free_port()
    children = [CONTEXT.Process(target=_run, args=(rank, count, port, target, arguments)) for rank in range(count)]
    for child in children:
        child.start()
    try:
        for child in children:
            child.join()
    finally:  # the test's own limit, if they hang
        for child in children:
            child.kill()
    return [child.exitcode for child in children if child.exitcode is not None]


def _run(rank: int, count: int, port: int, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    if count > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
    target(*arguments)
    if count > 1:
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
