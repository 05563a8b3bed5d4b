"""How far off predictions are at present, learned from the steps that the engine runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

import numpy as np

from anysize.engine.workload import StepRow
from anysize.family.variant import Variant
from anysize.sizing.latency import LatencyModel, Parts

_LEAST, _MOST = 0.3, 4.0
# Standard deviations: of a factor of which nothing was seen lately, of what it changes by from step to step, and of a
# step's time over what it should be. One that is off by more counts as off by so many.
_UNKNOWN, _CHANGE, _CHANCE, _FARTHEST = 0.3, 0.01, 0.1, 3.0
# Of the two factors, before anything was seen.
_ALIKE = 0.5


@dataclass(frozen=True, slots=True)
class Corrected:
    """A latency model, times what steps have lately taken over its predictions.

    Reading memory and computing have factors of their own: whatever else runs on the machine slows the two by different
    amounts, and steps are made of them in different shares.

    Attributes:
        model: predicts steps.
        reading: factor of what waits for memory.
        computing: factor of all else.
    """

    model: LatencyModel
    reading: float = 1.0
    computing: float = 1.0

    def step_ms(self, rows: Iterable[StepRow]) -> float:
        """How long a step of these rows takes, in milliseconds."""
        return self.of(self.model.parts_ms(rows))

    def of(self, parts: Parts) -> float:
        """The same of a step whose parts are known."""
        return self.reading * parts.reading_ms + self.computing * parts.computing_ms

    def tpot_ms(self, variant: Variant, *, rows: int, stored: int) -> float:
        """Milliseconds between two tokens of an answer. See `LatencyModel`."""
        return self.step_ms([StepRow(variant, 1, stored, True)] * rows)


class Correction:
    """The two factors, each from 0.3 to 4, tracked by a Kalman filter. May be used from several threads.

    What a step took says something about both, the more about one the larger its share of the step.

    Args:
        model: predicts steps.
    """

    def __init__(self, model: LatencyModel) -> None:
        self._model = model
        self._factors_2 = np.ones(2)
        self._unsure_22 = _UNKNOWN**2 * np.array([[1.0, _ALIKE], [_ALIKE, 1.0]])
        self._lock = Lock()

    def corrected(self) -> Corrected:
        """The model as the engine runs now."""
        with self._lock:
            reading, computing = map(float, self._factors_2)
        return Corrected(self._model, reading, computing)

    def saw(self, parts: Parts, measured_ms: float) -> None:
        """Learn from a step of such parts."""
        parts_2 = np.array((parts.reading_ms, parts.computing_ms))
        predicted_ms = parts_2.sum()
        if predicted_ms <= 0:
            return
        shares_2 = parts_2 / predicted_ms
        with self._lock:
            unsure_22 = self._unsure_22 + _CHANGE**2 * np.eye(2)
            spread = float(shares_2 @ unsure_22 @ shares_2) + _CHANCE**2
            gain_2 = unsure_22 @ shares_2 / spread
            farthest = _FARTHEST * spread**0.5
            off = float(np.clip(measured_ms / predicted_ms - shares_2 @ self._factors_2, -farthest, farthest))
            self._factors_2 = np.clip(self._factors_2 + gain_2 * off, _LEAST, _MOST)
            unsure_22 -= np.outer(gain_2, shares_2 @ unsure_22)
            within_2 = np.minimum(1.0, _UNKNOWN / np.sqrt(np.diag(unsure_22)))
            self._unsure_22 = np.outer(within_2, within_2) * unsure_22
