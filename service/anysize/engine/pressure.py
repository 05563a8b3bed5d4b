"""How much smaller the sizes are that answer while many want answers: the policy alone, without a clock.

The measure is demand: answers that run and wait, over those that may run at once. Up to `_FREE` of it everybody gets
the size that was asked for; from `_FULL` on whoever allows it gets the smallest of theirs; between the two everybody
goes down the same share of the way to their own floor. A full queue counts as `_FULL`, so nobody is refused while
somebody who waits could be given less. Levels are few, and one is left only once demand has fallen to the one below, so
that sizes do not flutter.
"""

import math

from anysize.engine.limits import Limits

_LEVELS = 8
_FREE, _FULL = 0.5, 1.5


class Pressure:
    """The level of an engine, from 0 to 1.

    Args:
        limits: of the engine.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._level = 0

    @property
    def level(self) -> float:
        """How far down the way to its floor whoever allows it is sent."""
        return self._level / _LEVELS

    def observe(self, *, running: int, waiting: int, waiting_tokens: int) -> None:
        """Learn how many answers are generated and how many requests and tokens wait."""
        demand = (running + waiting) / self._limits.max_running_requests
        share = (demand - _FREE) / (_FULL - _FREE)
        is_full = waiting >= self._limits.max_queued_requests or waiting_tokens >= self._limits.max_queued_tokens
        exact = _LEVELS * (1.0 if is_full else min(max(share, 0.0), 1.0))
        # Up once a level is reached, down once the one below is: in between it stays.
        self._level = max(math.floor(exact), min(self._level, math.ceil(exact)))

    def pick(self, top: int) -> int:
        """Which of the sizes 0 (smallest) to `top` answers somebody who asked for `top`."""
        return top - round(self.level * top)
