"""Whether an answer under way keeps its bounds of time on the size that it has: the rule alone, without a clock."""

from dataclasses import dataclass

# Tokens on one size before another is tried: a change costs a part of a prompt, and a mean needs some to be one.
LEAST_TOKENS = 8
# Of a bound: above the first it is about to be missed, below the second there is room for a larger size.
_LATE, _EARLY = 0.95, 0.7


@dataclass(frozen=True, slots=True)
class Pace:
    """The bounds of one answer's times, in milliseconds; those that are None do not bind.

    Attributes:
        tpot_ms: mean time between two tokens after the first.
        total_ms: from arrival to the last token.
    """

    tpot_ms: float | None = None
    total_ms: float | None = None

    def turn(self, *, mean_ms: float, recent_ms: float, elapsed_ms: float, tokens: int, left: int) -> int:
        """One size down (-1), one up (+1), or none.

        Args:
            mean_ms: time between two tokens since the first.
            recent_ms: that on the present size.
            elapsed_ms: since the request arrived.
            tokens: that the answer has, at least two.
            left: that it may still get.
        """
        shares: list[float] = []
        if self.tpot_ms is not None:
            ends_at_ms = (mean_ms * (tokens - 1) + recent_ms * left) / (tokens - 1 + left)
            shares.append(ends_at_ms / self.tpot_ms)
        if self.total_ms is not None:
            shares.append((elapsed_ms + recent_ms * left) / self.total_ms)
        if not shares:
            return 0
        worst = max(shares)
        return -1 if worst > _LATE else 1 if worst < _EARLY else 0
