"""A limit on the processor time of Python code that came with an artifact, such as a chat template."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` inside the block once this thread has used so much processor time in it.

    Code is looked at where it calls a function, and where it goes on to the next line if it was compiled from no file,
    as templates are. A single call into C is not cut short.

    Args:
        seconds: of this thread's processor time, so that a busy machine cuts nobody off.

    Raises:
        TimeoutError: it was not enough.
    """
    end_s = time.thread_time() + seconds

    def check(frame: FrameType, _event: str, _argument: Any) -> Any:
        if time.thread_time() > end_s:
            raise TimeoutError(f"it takes more than {seconds:g} s of processor time")
        return check if frame.f_code.co_filename.startswith("<") else None

    before = sys.gettrace()
    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)
