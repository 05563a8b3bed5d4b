"""How much longer than predicted things may take, so that promises are kept in nineteen cases of twenty."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Margin:
    """Factors over predictions.

    A single step is late by what the prediction is off for its kind and by chance, which over many steps cancels out.

    Attributes:
        step: almost all steps that carry a prompt take less than this times their prediction.
        lasting: almost all stretches of steps take less than this times theirs.
    """

    step: float = 1.0
    lasting: float = 1.0

    def __post_init__(self) -> None:
        assert self.step >= self.lasting > 0

    def over(self, steps: int) -> float:
        """The factor for what takes so many steps: chance counts less by their square root."""
        return self.lasting + (self.step - self.lasting) / math.sqrt(max(1, steps))
