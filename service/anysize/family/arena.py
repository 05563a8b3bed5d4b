"""A bank's weights side by side in memory, each where a vector load finds it whole.

A safetensors file is mapped as it lies on disk, where a tensor begins at any multiple of eight bytes. Every second load
of a weight then crosses a border between two cache lines, and decoding is made of such loads. What is copied here also
no longer changes, or vanishes, with the file.
"""

import math
import mmap
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_LINE_BYTES = 64
_HUGE_PAGE_BYTES = 2 << 20


def settle(parameters: Iterable[Tensor]) -> None:
    """Move tensors on the CPU into memory of their own, in large pages where the system has them.

    Args:
        parameters: distinct ones, whose data is replaced. Those on other devices stay where they are.
    """
    moved = [tensor for tensor in parameters if tensor.device.type == "cpu" and tensor.is_contiguous()]
    starts, stop = [], 0
    for tensor in moved:
        starts.append(stop)
        stop += -(-tensor.nbytes // _LINE_BYTES) * _LINE_BYTES
    if not stop:
        return
    arena = _large_pages(stop)
    for tensor, start in zip(moved, starts, strict=True):
        place = arena[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        tensor.data = place.copy_(tensor)


def empty(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Like `torch.empty`; on the CPU in large pages, of which a processor knows as many as of small ones by heart."""
    if device.type != "cpu":
        return torch.empty(*shape, dtype=dtype, device=device)
    size_bytes = math.prod(shape) * dtype.itemsize
    return _large_pages(size_bytes).view(dtype).view(*shape)


def _large_pages(size_bytes: int) -> Tensor:
    memory = mmap.mmap(
        -1, (size_bytes // _HUGE_PAGE_BYTES + 2) * _HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    first = -whole.data_ptr() % _HUGE_PAGE_BYTES
    return whole[first : first + size_bytes]
