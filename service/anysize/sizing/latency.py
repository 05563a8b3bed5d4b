"""How long a step of the engine takes, predicted from who is in it. Knows no torch and no clock.

The cost of a variant is the sum of its parts: a step has a fixed cost, each layer that any row uses is read once, each
token in a layer costs something, each row in a layer attends to what it has stored, and each row that wants logits goes
through the head. So a few coefficients, measured once on a machine, predict every mix of sizes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, pairwise
from typing import NamedTuple, Self

import numpy as np

from anysize.engine.workload import StepRow
from anysize.family.variant import Owner, Variant

# Between these many tokens in a layer, or rows in a head, costs are taken to grow evenly, and beyond the last too.
# Weights are read once however few there are, and kernels handle 4 at a time: costs bend both ways.
_TOKENS = (1, 2, 4, 8, 16, 32, 64)
_ROWS = (1, 2, 4, 8, 16)
_REMEMBERED = 1024


def _names(part: str, knots: Sequence[int]) -> list[str]:
    return [f"{part}_reads", *(f"{part}_to_{knot}" for knot in knots[1:]), f"{part}_over_{knots[-1]}"]


FEATURES = (
    "steps",
    *_names("teacher", _TOKENS),
    *_names("student", _TOKENS),
    *_names("head", _ROWS),
    "attention_rows",
    "attention_chunks",
    "attention_stored",
    "attention_pairs",
)
"""What of a step costs time.

Attributes:
    steps: 1.
    teacher_reads, student_reads: distinct layers that are used. A student layer of a `delta` family is its updates
        alone, and the teacher's layer below them counts as the teacher's.
    teacher_to_2 and so on: layers with so many tokens or more; one with fewer counts as the share of the way that it
        has come from the number before. 3 tokens in a layer are 1 of `to_2` and a half of `to_4`.
    teacher_over_64, student_over_64: (token, layer) pairs beyond the 64th token in a layer.
    head_reads, head_to_2 and so on: likewise for distinct heads and the rows that go through them.
    attention_rows, attention_chunks: (row, layer) pairs of rows of one token, and of several.
    attention_stored: tokens that all of these attend to.
    attention_pairs: pairs of tokens that attend to each other, in rows of several.
"""


_READING = tuple(name.endswith("_reads") or name == "attention_stored" for name in FEATURES)


class Parts(NamedTuple):
    """What a step takes: milliseconds that grow with what is read from memory, all others, and tokens to be picked."""

    reading_ms: float
    computing_ms: float
    picks: int


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a family decides which layers a step uses.

    Attributes:
        blocks: teacher layers that each position stands for.
        shares_base: whether a student layer is an update on the first layer of its block (`delta`).
        shares_head: whether teacher and student have one head.
    """

    blocks: tuple[int, ...]
    shares_base: bool
    shares_head: bool


class Tally:
    """The features of a step, row by row.

    Args:
        shape: of the family.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        # Of each variant: tokens, rows that want logits, and the four of attention.
        self._sums: dict[Variant, list[int]] = {}

    def add(self, row: StepRow) -> None:
        """Count one row."""
        sums = self._sums.get(row.variant)
        if sums is None:
            sums = self._sums[row.variant] = [0] * 6
        sums[0] += row.tokens
        sums[1] += row.wants_logits
        sums[4] += row.stored + row.tokens
        if row.tokens == 1:
            sums[2] += 1
        else:
            sums[3] += 1
            sums[5] += row.tokens * (row.stored + row.tokens)

    @property
    def picks(self) -> int:
        """Tokens that are to be picked after the step."""
        return sum(sums[1] for sums in self._sums.values())

    def features(self) -> list[float]:
        """The values of `FEATURES`, in that order."""
        reads = tuple((variant, sums[0], sums[1]) for variant, sums in self._sums.items())
        attention = [
            float(sum(_depth(self._shape, variant) * sums[part] for variant, sums in self._sums.items()))
            for part in range(2, 6)
        ]
        return [*_features_of_reads(self._shape, reads), *attention]


@lru_cache(maxsize=_REMEMBERED)
def _depth(shape: Shape, variant: Variant) -> int:
    return sum(length if is_patched else 1 for length, is_patched in zip(shape.blocks, variant.choice, strict=True))


@lru_cache(maxsize=_REMEMBERED)
def _features_of_reads(shape: Shape, reads: tuple[tuple[Variant, int, int], ...]) -> tuple[float, ...]:
    """All features but those of attention: they are the same for step after step of the same answers.

    Args:
        shape: of the family.
        reads: of each variant its tokens, and its rows that want logits.
    """
    students = [0] * len(shape.blocks)
    patched = [0] * len(shape.blocks)
    heads: dict[Owner, int] = {}
    for variant, tokens, rows in reads:
        for position, is_patched in enumerate(variant.choice):
            (patched if is_patched else students)[position] += tokens
        if rows:
            owner = Owner.TEACHER if shape.shares_head else variant.head_owner
            heads[owner] = heads.get(owner, 0) + rows
    teacher_layers, student_layers = _Climb(_TOKENS), _Climb(_TOKENS)
    for length, of_students, of_patched in zip(shape.blocks, students, patched, strict=True):
        if shape.shares_base:
            teacher_layers.add(of_students + of_patched)
            teacher_layers.add(of_patched, times=length - 1)
        else:
            teacher_layers.add(of_patched, times=length)
        student_layers.add(of_students)
    rows_of_heads = _Climb(_ROWS)
    for rows in heads.values():
        rows_of_heads.add(rows)
    return (1.0, *teacher_layers.sums, *student_layers.sums, *rows_of_heads.sums)


class _Climb:
    """How far counts have come between knots, summed; see `FEATURES`."""

    def __init__(self, knots: Sequence[int]) -> None:
        self._knots = knots
        self.sums = [0.0] * (len(knots) + 1)

    def add(self, count: float, *, times: int = 1) -> None:
        if not count:
            return
        self.sums[0] += times
        for number, (low, high) in enumerate(pairwise(self._knots), start=1):
            if count <= low:
                return
            self.sums[number] += times * min(1.0, (count - low) / (high - low))
        self.sums[-1] += times * max(0.0, count - self._knots[-1])


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Predicts the time of a step.

    Attributes:
        shape: of the family.
        coefficients: milliseconds, never negative, one for each of `FEATURES`. So more rows, tokens or layers never
            take less time.
    """

    shape: Shape
    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.coefficients) == len(FEATURES)
        assert min(self.coefficients) >= 0

    @classmethod
    def of(cls, shape: Shape, named: Mapping[str, float]) -> Self:
        """From coefficients by their names; those that are not named are 0."""
        assert named.keys() <= set(FEATURES)
        return cls(shape, tuple(named.get(name, 0.0) for name in FEATURES))

    @classmethod
    def fit(cls, shape: Shape, steps: Sequence[Sequence[StepRow]], measured_ms: Sequence[float]) -> Self:
        """The coefficients that are nearest to what was measured, by the squares of relative errors.

        Args:
            shape: of the family.
            steps: the rows of each step.
            measured_ms: how long each took, above 0.
        """
        features_SF = np.array([_tallied(shape, rows).features() for rows in steps])
        weights_S = 1 / np.array(measured_ms)
        found_F = _non_negative(features_SF * weights_S[:, None], np.ones(len(steps)))
        return cls(shape, tuple(float(one) for one in found_F))

    def step_ms(self, rows: Iterable[StepRow]) -> float:
        """How long a step of these rows takes, in milliseconds."""
        parts = self.parts_ms(rows)
        return parts.reading_ms + parts.computing_ms

    def parts_ms(self, rows: Iterable[StepRow]) -> Parts:
        """The same in its two parts."""
        tally = _tallied(self.shape, rows)
        costs_ms = [*map(float.__mul__, self.coefficients, tally.features())]
        reading_ms = sum(compress(costs_ms, _READING))
        return Parts(reading_ms, sum(costs_ms) - reading_ms, tally.picks)

    def tpot_ms(self, variant: Variant, *, rows: int, stored: int) -> float:
        """Milliseconds between two tokens of an answer.

        Args:
            variant: of all rows of the batch.
            rows: in the batch.
            stored: tokens that each of them attends to.
        """
        return self.step_ms([StepRow(variant, 1, stored, True)] * rows)


def _tallied(shape: Shape, rows: Iterable[StepRow]) -> Tally:
    tally = Tally(shape)
    for row in rows:
        tally.add(row)
    return tally


def _non_negative(features_SF: "np.ndarray", target_S: "np.ndarray") -> "np.ndarray":
    """Least squares without negative coefficients: the most negative is dropped and the rest fitted again."""
    found_F = np.zeros(features_SF.shape[1])
    scales_F = np.linalg.norm(features_SF, axis=0)
    kept = [int(number) for number in np.flatnonzero(scales_F)]
    while kept:
        fitted = np.linalg.lstsq(features_SF[:, kept] / scales_F[kept], target_S, rcond=1e-9)[0]
        if fitted.min() >= 0:
            found_F[kept] = fitted / scales_F[kept]
            break
        del kept[int(fitted.argmin())]
    return found_F
