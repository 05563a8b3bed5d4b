"""How much later than predicted steps are at present: margins that keep promises in bad times and are small in good."""

from threading import Lock

from anysize.sizing.correction import Corrected
from anysize.sizing.latency import Parts
from anysize.sizing.margin import Margin

# Of steps, and of stretches of steps, that are to stay inside the margin. A little more than are promised: where not
# even the smallest size is expected to keep a budget, more are late.
_INSIDE = 0.97
_STRETCH = 16
_STEP_WEIGHT, _STRETCH_WEIGHT = 0.01, 0.04
_MOST = 2.0


class Lateness:
    """A margin that follows what the engine does. May be used from several threads.

    It rises by much with each that is late and falls by little with each that is not, so that it settles where the
    wanted share is inside.

    Args:
        margin: to begin with.
    """

    def __init__(self, margin: Margin) -> None:
        self._step, self._lasting = margin.step, margin.lasting
        self._begun: Corrected | None = None  # as predictions were made when the stretch began
        self._steps, self._predicted_ms, self._measured_ms = 0, 0.0, 0.0
        self._lock = Lock()

    def margin(self) -> Margin:
        """At present."""
        with self._lock:
            return Margin(max(self._step, self._lasting), self._lasting)

    def saw(self, parts: Parts, measured_ms: float, corrected: Corrected, *, has_prompt: bool) -> None:
        """Learn from one step.

        Args:
            parts: of the step.
            measured_ms: how long it took.
            corrected: what predicted it.
            has_prompt: whether it carries one. Promises of single steps are about these, and they vary more.
        """
        with self._lock:
            if has_prompt:
                self._step = _moved(self._step, measured_ms, corrected.of(parts), _STEP_WEIGHT)
            self._begun = self._begun or corrected
            self._steps += 1
            self._predicted_ms += self._begun.of(parts)
            self._measured_ms += measured_ms
            if self._steps == _STRETCH:
                self._lasting = _moved(self._lasting, self._measured_ms, self._predicted_ms, _STRETCH_WEIGHT)
                self._begun, self._steps, self._predicted_ms, self._measured_ms = None, 0, 0.0, 0.0


def _moved(factor: float, measured_ms: float, predicted_ms: float, weight: float) -> float:
    is_late = measured_ms > factor * predicted_ms
    return min(max(factor + weight * (is_late - (1 - _INSIDE)), 1.0), _MOST)
