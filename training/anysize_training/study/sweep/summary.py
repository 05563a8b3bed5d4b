"""What seeds say together: mean and spread of each size of each arm."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from anysize_training.study.sweep.runs import Score, Scored
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
    """A depth of an arm over its seeds.

    Attributes:
        variant: the size's id; where seeds kept other layers and so have other sizes of this depth, that is said.
        layers: the depth.
        parameters: for inference.
        seeds: that have a size of this depth.
        perplexity: of a token.
        kl: of a token, to the teacher, in nats.
    """

    variant: str
    layers: int
    parameters: int
    seeds: int
    perplexity: Spread
    kl: Spread


def summarise(sweep: Sweep, scored: Sequence[Scored]) -> dict[str, list[Point]]:
    """The sizes of each arm that has been run, in the order of the sweep, smallest first."""
    runs = {arm: [size for one in scored if one.arm == arm for size in one.scores] for arm in sweep.arms}
    return {arm: [*_points(sizes)] for arm, sizes in runs.items() if sizes}


def _points(sizes: Iterable[Score]) -> Iterable[Point]:
    def depth(size: Score) -> int:
        return size.layers

    for layers, group in groupby(sorted(sizes, key=depth), depth):
        of_seeds = [*group]
        variants = {size.variant for size in of_seeds}
        yield Point(
            variant=variants.pop() if len(variants) == 1 else f"{len(variants)} sizes of this depth",
            layers=layers,
            parameters=of_seeds[0].parameters,
            seeds=len(of_seeds),
            perplexity=Spread.of([size.perplexity for size in of_seeds]),
            kl=Spread.of([size.kl for size in of_seeds]),
        )
