"""What one replica can do, as it was measured: the figures that a simulated fleet is made of."""

from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from anysize.console import say
from anysize.errors import CalibrationError
from anysize.settings import load_settings

PROMPT_TOKENS, ANSWER_TOKENS = 40, 64


class Replica(BaseModel):
    """One replica.

    Attributes:
        family, processor, threads: what was measured on what.
        places: answers that run side by side.
        queue: requests that may wait.
        fractions: of each size, smallest first: its inference parameters over the teacher's.
        prefill_ms: of each size: what a prompt of `PROMPT_TOKENS` costs.
        step_ms: of each size: a step with 1, 2, ... `places` answers of average length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    processor: str
    threads: int
    places: int = Field(ge=1)
    queue: int = Field(ge=1)
    fractions: list[float]
    prefill_ms: list[float]
    step_ms: list[list[float]]

    @classmethod
    def measured(cls) -> Self:
        """That of the default settings on this machine, by what `anysize calibrate` has stored.

        Raises:
            CalibrationError: it has not run here.
        """
        # Torch, which reading a file need not wait for.
        from anysize.commands.serve import load_calibration, load_family, load_kernels
        from anysize.engine.workload import StepRow

        settings = load_settings()
        kernels = load_kernels(settings, say)
        family = load_family(settings, say)
        calibration = load_calibration(settings, family, kernels, say)
        if calibration is None:
            raise CalibrationError("this machine has no calibration of these settings: run `anysize calibrate` first")
        model = calibration.model()
        stored = PROMPT_TOKENS + ANSWER_TOKENS // 2
        places = settings.max_running_requests
        return cls(
            family=family.name,
            processor=calibration.key.processor,
            threads=calibration.key.threads,
            places=places,
            queue=settings.max_queued_requests,
            fractions=[size.fraction for size in family.ladder],
            prefill_ms=[
                round(model.step_ms([StepRow(size.variant, PROMPT_TOKENS, 0, True)]), 2) for size in family.ladder
            ],
            step_ms=[
                [round(model.step_ms([StepRow(size.variant, 1, stored, True)] * n), 2) for n in range(1, places + 1)]
                for size in family.ladder
            ],
        )

    @classmethod
    def read(cls, file: Path) -> Self:
        """That of a file."""
        return cls.model_validate_json(file.read_bytes())

    @property
    def largest(self) -> int:
        """The index of the largest size."""
        return len(self.fractions) - 1

    def steps_ms(self, running: "np.ndarray", size: "np.ndarray") -> "np.ndarray":
        """Milliseconds of a step.

        Args:
            running: answers in it, for each replica; at least 1.
            size: the mean index of their sizes, between which is interpolated.
        """
        table = np.asarray(self.step_ms)
        low = np.floor(size).astype(int)
        high = np.minimum(low + 1, self.largest)
        share = size - low
        return (1 - share) * table[low, running - 1] + share * table[high, running - 1]

    def capacity_per_s(self, demand: float) -> float:
        """Requests a second that the largest size answers with this share of its places taken."""
        running = max(1, round(demand * self.places))
        step_ms = self.step_ms[self.largest][running - 1]
        # In the time of an answer each of those that run beside it has had a prompt.
        answer_ms = ANSWER_TOKENS * step_ms + running * self.prefill_ms[self.largest]
        return 1e3 * running / answer_ms
