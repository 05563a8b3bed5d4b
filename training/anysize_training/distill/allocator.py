"""How the C library hands out memory on a CPU."""

import ctypes
import sys

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1
_LARGEST_KEPT = 32 << 20


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next pass; elsewhere this does nothing.

    By default it gives memory back to the kernel as soon as a pass is over, and the next one pays for every page again:
    with activations of tens of megabytes, a noticeable part of a step.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
