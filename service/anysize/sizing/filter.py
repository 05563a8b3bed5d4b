"""Two numbers of which each measurement tells a weighted sum: a Kalman filter in plain floats, as it runs each step."""

import math
from dataclasses import dataclass

# Standard deviations; what is off by more counts as off by so many.
_FARTHEST = 3.0
# What is learned of one number says so much of the other, before anything was seen.
_ALIKE = 0.5


@dataclass(frozen=True, slots=True)
class Kind:
    """What the numbers are like.

    Attributes:
        first: both of them, before anything was seen.
        least, most: their bounds.
        unknown: standard deviation of one of which nothing was seen lately.
        change: that of what it changes by from one measurement to the next.
        chance: that of a measurement.
    """

    first: float
    least: float
    most: float
    unknown: float
    change: float
    chance: float


class Filter:
    """The two numbers, tracked.

    Args:
        kind: what they are like.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._a = self._b = kind.first
        self._aa = self._bb = kind.unknown**2
        self._ab = _ALIKE * kind.unknown**2

    @property
    def values(self) -> tuple[float, float]:
        """As they are believed to be."""
        return self._a, self._b

    def saw(self, a: float, b: float, measured: float) -> None:
        """Learn from a sum of both.

        Args:
            a: weight of the first, not negative.
            b: of the second; the two add up to 1.
            measured: the sum.
        """
        kind = self._kind
        self._aa += kind.change**2
        self._bb += kind.change**2
        of_a, of_b = a * self._aa + b * self._ab, a * self._ab + b * self._bb
        spread = a * of_a + b * of_b + kind.chance**2
        farthest = _FARTHEST * math.sqrt(spread)
        off = min(max(measured - a * self._a - b * self._b, -farthest), farthest) / spread
        self._a = min(max(self._a + of_a * off, kind.least), kind.most)
        self._b = min(max(self._b + of_b * off, kind.least), kind.most)
        self._aa -= of_a * of_a / spread
        self._ab -= of_a * of_b / spread
        self._bb -= of_b * of_b / spread
        # What was not seen for long gets no less known than at first.
        less_a = min(1.0, kind.unknown / math.sqrt(self._aa))
        less_b = min(1.0, kind.unknown / math.sqrt(self._bb))
        self._aa, self._ab, self._bb = less_a**2 * self._aa, less_a * less_b * self._ab, less_b**2 * self._bb
