"""How far off predictions are at present, learned from the steps that the engine runs."""

from collections.abc import Sequence
from threading import Lock

from anysize.engine.workload import StepRow
from anysize.sizing.latency import LatencyModel

_LEAST, _MOST = 0.5, 3.0
_WEIGHT = 0.1


class Correction:
    """The exponential mean of measured over predicted step times, from 0.5 to 3. May be used from several threads.

    Args:
        model: predicts steps.
    """

    def __init__(self, model: LatencyModel) -> None:
        self._model = model
        self._factor = 1.0
        self._lock = Lock()

    @property
    def factor(self) -> float:
        """What predictions are to be multiplied by."""
        with self._lock:
            return self._factor

    def saw(self, rows: Sequence[StepRow], measured_ms: float) -> None:
        """Learn from one step. Steps that take prompts up at some layer say nothing, and are left out."""
        if any(row.is_resumed for row in rows):
            return
        predicted_ms = self._model.step_ms(rows)
        if predicted_ms <= 0:
            return
        ratio = min(max(measured_ms / predicted_ms, _LEAST), _MOST)
        with self._lock:
            self._factor += _WEIGHT * (ratio - self._factor)
