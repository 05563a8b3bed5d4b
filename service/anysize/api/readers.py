"""Threads that read prompts: making tokens of a long one would hold up everybody else's event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import ParamSpec, TypeVar

# The tokenizer takes one prompt at a time; looking ahead and compiling grammars go beside it.
_THREADS = 4

P = ParamSpec("P")
T = TypeVar("T")


class Readers:
    """A few threads that are made at the start.

    A thread takes memory for its stack, which may be missing under load; a request that had to wait for a new one would
    fail by that.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="anysize-reader")

    def start(self) -> None:
        """Make all of them."""
        all_there = Barrier(_THREADS + 1)
        for _ in range(_THREADS):
            self._pool.submit(all_there.wait)
        all_there.wait()

    def stop(self) -> None:
        """Let them go once they have nothing to do."""
        self._pool.shutdown(wait=False)

    async def run(self, call: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        """What a call returns, or raises, on one of the threads. Where this is cancelled the call goes on unheard."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(call, *arguments, **keywords))
