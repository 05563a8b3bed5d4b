"""How far off predictions are at present, learned from the steps that the engine runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

from anysize.engine.workload import StepRow
from anysize.family.variant import Variant
from anysize.sizing.latency import LatencyModel

_LEAST, _MOST = 0.5, 3.0
_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class Corrected:
    """A latency model, times what steps have lately taken over its predictions.

    Steps that carry prompts and steps that only decode have factors of their own: the first wait for the processor and
    the second for memory, and whatever else runs on the machine slows the two by different amounts.

    Attributes:
        model: predicts steps.
        prompts: factor of steps with a row of several tokens.
        decoding: factor of all others.
    """

    model: LatencyModel
    prompts: float = 1.0
    decoding: float = 1.0

    def step_ms(self, rows: Iterable[StepRow]) -> float:
        """How long a step of these rows takes, in milliseconds."""
        rows = list(rows)
        return (self.prompts if has_prompt(rows) else self.decoding) * self.model.step_ms(rows)

    def tpot_ms(self, variant: Variant, *, rows: int, stored: int) -> float:
        """Milliseconds between two tokens of an answer. See `LatencyModel`."""
        return self.decoding * self.model.tpot_ms(variant, rows=rows, stored=stored)


class Correction:
    """The exponential means of measured over predicted step times, from 0.5 to 3. May be used from several threads.

    Args:
        model: predicts steps.
    """

    def __init__(self, model: LatencyModel) -> None:
        self._model = model
        self._factors: dict[bool, float] = {}  # by whether there is a prompt in the step
        self._lock = Lock()

    def corrected(self) -> Corrected:
        """The model as the engine runs now. Until both kinds of step have been seen, one stands for the other."""
        with self._lock:
            either = next(iter(self._factors.values()), 1.0)
            return Corrected(self._model, self._factors.get(True, either), self._factors.get(False, either))

    def saw(self, rows: Sequence[StepRow], measured_ms: float) -> None:
        """Learn from one step. Steps that take prompts up at some layer say nothing, and are left out."""
        if any(row.is_resumed for row in rows):
            return
        predicted_ms = self._model.step_ms(rows)
        if predicted_ms <= 0:
            return
        ratio = min(max(measured_ms / predicted_ms, _LEAST), _MOST)
        kind = has_prompt(rows)
        with self._lock:
            before = self._factors.get(kind, 1.0)
            self._factors[kind] = before + _WEIGHT * (ratio - before)


def has_prompt(rows: Iterable[StepRow]) -> bool:
    """Whether a step carries several tokens of one row."""
    return any(row.tokens > 1 for row in rows)
