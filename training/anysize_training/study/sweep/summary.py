"""What seeds say together: mean and spread of each size of each arm."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from anysize_training.study.sweep.runs import Scored
from anysize_training.study.sweep.sweep import Sweep


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over seeds.

    Attributes:
        mean: of all.
        deviation: sample standard deviation; None for a single seed.
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True, slots=True)
class Point:
    """A size of an arm over its seeds."""

    variant: str
    layers: int
    parameters: int
    seeds: int
    perplexity: Spread
    kl: Spread


def summarise(sweep: Sweep, scored: Sequence[Scored]) -> dict[str, list[Point]]:
    """The sizes of each arm that has been run, in the order of the sweep, smallest first."""
    runs = {arm: [one.scores for one in scored if one.arm == arm] for arm in sweep.arms}
    return {
        arm: [
            Point(
                variant=sizes[0].variant,
                layers=sizes[0].layers,
                parameters=sizes[0].parameters,
                seeds=len(sizes),
                perplexity=Spread.of([size.perplexity for size in sizes]),
                kl=Spread.of([size.kl for size in sizes]),
            )
            for sizes in zip(*of_seeds, strict=True)
        ]
        for arm, of_seeds in runs.items()
        if of_seeds
    }
