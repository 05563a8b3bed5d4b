"""How often each caller may ask for an answer."""

import math
import time

from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from anysize.errors import RateLimitError


class RateLimit:
    """A limit that each caller has of their own, in a window that slides.

    It is kept in the memory of this process: of several replicas, each allows as much.

    Args:
        limit: such as `60/minute`.
    """

    def __init__(self, limit: str) -> None:
        self._limit = limit
        self._item = parse(limit)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def count(self, caller: str) -> None:
        """Count one request of a caller.

        Raises:
            RateLimitError: it is one too many, and has not been counted.
        """
        if await self._limiter.hit(self._item, caller):
            return
        window = await self._limiter.get_window_stats(self._item, caller)
        retry_after_s = max(1, math.ceil(window.reset_time - time.time()))
        raise RateLimitError(f"this is more than the {self._limit} that each caller may ask for", retry_after_s)
