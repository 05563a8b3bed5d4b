"""A bank's weights side by side in memory, each where a vector load finds it whole.

A safetensors file is mapped as it lies on disk, where a tensor begins at any multiple of eight bytes. Every second load
of a weight then crosses a border between two cache lines, and decoding is made of such loads. What is copied here also
no longer changes, or vanishes, with the file.
"""

import mmap
from collections.abc import Iterable

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
    memory = mmap.mmap(
        -1, (stop // _HUGE_PAGE_BYTES + 2) * _HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    arena = torch.frombuffer(memory, dtype=torch.uint8)
    first = -arena.data_ptr() % _HUGE_PAGE_BYTES
    for tensor, start in zip(moved, starts, strict=True):
        place = arena[first + start : first + start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        tensor.data = place.copy_(tensor)
