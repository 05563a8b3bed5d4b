"""A limit on the processor time of chat templates, which are code that came with an artifact."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# What jinja calls the file of a template that was compiled from none.
_TEMPLATE = "<template>"


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` where a template goes on although this thread has used so much processor time in the block.

    All else in the block, such as tokenizing what a template has written, may take as long as it takes. A single call
    into C is not cut short.

    Args:
        seconds: of this thread's processor time, so that a busy machine cuts nobody off.

    Raises:
        TimeoutError: it was not enough.
    """
    end_s = time.thread_time() + seconds

    def check(frame: FrameType, _event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename != _TEMPLATE:
            return None
        if time.thread_time() > end_s:
            raise TimeoutError(f"it takes more than {seconds:g} s of processor time")
        return check

    before = sys.gettrace()
    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)
