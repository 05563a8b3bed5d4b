"""How far off predictions are at present, learned from the steps that the engine runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

from anysize.engine.workload import StepRow
from anysize.family.variant import Variant
from anysize.sizing.filter import Filter, Kind
from anysize.sizing.latency import LatencyModel, Parts

_FACTORS = Kind(first=1.0, least=0.3, most=4.0, unknown=0.3, change=0.01, chance=0.1)
_AROUND_MS = Kind(first=0.0, least=0.0, most=100.0, unknown=1.0, change=0.01, chance=0.3)


@dataclass(frozen=True, slots=True)
class Corrected:
    """A latency model as the engine runs at present.

    Reading memory and computing have factors of their own: whatever else runs on the machine slows the two by different
    amounts, and steps are made of them in different shares. What the engine does around a step is no part of the model.

    Attributes:
        model: predicts steps.
        reading: factor of what waits for memory.
        computing: factor of all else.
        around_ms: planning a step, and learning from it.
        pick_ms: picking a token, and making text of it.
    """

    model: LatencyModel
    reading: float = 1.0
    computing: float = 1.0
    around_ms: float = 0.0
    pick_ms: float = 0.0

    def step_ms(self, rows: Iterable[StepRow]) -> float:
        """How long a step of these rows takes with all around it, in milliseconds."""
        return self.of(self.model.parts_ms(rows))

    def of(self, parts: Parts) -> float:
        """The same of a step whose parts are known."""
        model_ms = self.reading * parts.reading_ms + self.computing * parts.computing_ms
        return model_ms + self.around_ms + self.pick_ms * parts.picks

    def tpot_ms(self, variant: Variant, *, rows: int, stored: int) -> float:
        """Milliseconds between two tokens of an answer. See `LatencyModel`."""
        return self.step_ms([StepRow(variant, 1, stored, True)] * rows)


class Correction:
    """What makes predictions right, tracked. May be used from several threads.

    What a step took says something about both factors, the more about one the larger its share of the step.

    Args:
        model: predicts steps.
    """

    def __init__(self, model: LatencyModel) -> None:
        self._model = model
        self._factors, self._around_ms = Filter(_FACTORS), Filter(_AROUND_MS)
        self._lock = Lock()

    def corrected(self) -> Corrected:
        """The model as the engine runs now."""
        with self._lock:
            return Corrected(self._model, *self._factors.values, *self._around_ms.values)

    def saw(self, parts: Parts, *, model_ms: float, whole_ms: float) -> None:
        """Learn from a step.

        Args:
            parts: of it.
            model_ms: how long the model took.
            whole_ms: how long it took with all around it.
        """
        predicted_ms = parts.reading_ms + parts.computing_ms
        if predicted_ms <= 0:
            return
        each = 1 + parts.picks
        with self._lock:
            self._factors.saw(
                parts.reading_ms / predicted_ms, parts.computing_ms / predicted_ms, model_ms / predicted_ms
            )
            self._around_ms.saw(1 / each, parts.picks / each, (whole_ms - model_ms) / each)
