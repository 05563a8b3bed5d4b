"""The machine: processor, memory, disk, compiler, GPU and port."""

import os
import shutil
import tempfile
from pathlib import Path

import psutil
import torch

from anysize.commands.checks.check import Check, tried
from anysize.commands.serve import kernels_are_of_use, listening
from anysize.engine.kernels.kernels import Kernels
from anysize.engine.memory import free_bytes
from anysize.family.fetch import cache_folder
from anysize.settings import Settings

_MIN_DISK_BYTES = 1 << 30
_FEATURES = ("AVX512", "AVX2", "NEON", "SVE")


def machine_checks(settings: Settings, weight_bytes: int | None) -> list[Check]:
    """Whether this machine can run a service with these settings.

    Args:
        settings: of the service.
        weight_bytes: that its family takes in memory, where that is known.
    """
    return [
        _processor(),
        _memory(settings, weight_bytes),
        _cache(cache_folder()),
        tried("kernels", lambda: _kernels(settings), "", outcome="fail" if _needs_kernels(settings) else "warn"),
        tried("GPU", lambda: _gpu(settings), "use --device cpu"),
        tried("port", lambda: _port(settings), ""),
    ]


def _processor() -> Check:
    capability = torch.backends.cpu.get_cpu_capability()
    cores, threads = psutil.cpu_count(logical=False) or os.cpu_count() or 1, torch.get_num_threads()
    found = f"{cores} cores, {threads} threads of torch, {capability}"
    if not capability.startswith(_FEATURES):
        advice = "a processor with AVX2 or NEON is several times faster"
        return Check(name="processor", outcome="warn", found=found, advice=advice)
    if threads > cores:
        advice = f"more threads than cores slow each other down: set ANYSIZE_THREADS={cores}"
        return Check(name="processor", outcome="warn", found=found, advice=advice)
    return Check(name="processor", outcome="ok", found=found)


def _memory(settings: Settings, weight_bytes: int | None) -> Check:
    free = free_bytes(torch.device("cpu") if settings.device == "auto" else settings.torch_device())
    if weight_bytes is None:
        return Check(name="memory", outcome="ok", found=f"{_gb(free)} free")
    found = f"{_gb(free)} free, the weights take {_gb(weight_bytes)}"
    if weight_bytes > free:
        advice = "close other programs, or take --dtype bfloat16 or a smaller teacher"
        return Check(name="memory", outcome="fail", found=found, advice=advice)
    if 2 * weight_bytes > free:
        advice = "little is left for keys and values: expect few requests side by side"
        return Check(name="memory", outcome="warn", found=found, advice=advice)
    return Check(name="memory", outcome="ok", found=found)


def _cache(folder: Path) -> Check:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        advice = "name a folder that can be written in ANYSIZE_CACHE"
        return Check(name="cache", outcome="fail", found=f"{folder} cannot be written: {error.strerror}", advice=advice)
    if free < _MIN_DISK_BYTES:
        advice = "free some disk, or name another place in ANYSIZE_CACHE"
        return Check(name="cache", outcome="warn", found=f"{folder}, with {_gb(free)} free", advice=advice)
    return Check(name="cache", outcome="ok", found=f"{folder}, with {_gb(free)} free")


def _needs_kernels(settings: Settings) -> bool:
    return bool(settings.compile or settings.quantize)


def _kernels(settings: Settings) -> Check:
    if settings.compile is False:
        return Check(name="kernels", outcome="ok", found="turned off")
    if not kernels_are_of_use(settings):
        return Check(name="kernels", outcome="ok", found="not used: they are for float32 on a CPU")
    Kernels.compiled(lambda _: None)
    return Check(name="kernels", outcome="ok", found="compiled for this machine, and right")


def _gpu(settings: Settings) -> Check:
    device = settings.torch_device()
    if device.type != "cuda":
        return Check(name="GPU", outcome="ok", found="none is used")
    free, _total = torch.cuda.mem_get_info(device)
    return Check(name="GPU", outcome="ok", found=f"{torch.cuda.get_device_name(device)}, {_gb(free)} free")


def _port(settings: Settings) -> Check:
    with listening(settings.host, settings.port) as listener:
        listener.listen(1)
    return Check(name="port", outcome="ok", found=f"{settings.host} port {settings.port} is free")


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
