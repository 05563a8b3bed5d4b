"""What the latency model predicts, against costs that are known."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysize.engine.workload import StepRow
from anysize.family.variant import Variant
from anysize.sizing.latency import FEATURES, LatencyModel, Shape, Tally

BLOCKS = (1, 3, 2, 4)
SHAPES = [Shape(BLOCKS, base, head) for base in (True, False) for head in (True, False)]
COSTS = {name: 0.01 * (number + 1) for number, name in enumerate(FEATURES)}

variants = st.tuples(*[st.booleans()] * len(BLOCKS)).map(Variant)
rows = st.builds(StepRow, variants, st.integers(1, 80), st.integers(0, 1000), st.booleans())
steps = st.lists(rows, min_size=1, max_size=20)
shapes = st.sampled_from(SHAPES)


def by_hand(shape: Shape, step: list[StepRow]) -> dict[str, float]:
    """The features, layer by layer and row by row."""
    through: dict[tuple[str, int, int], int] = {}
    counts = dict.fromkeys(FEATURES, 0.0)
    heads: dict[str, int] = {}
    for row in step:
        layers: list[tuple[str, int, int]] = []
        for position, is_patched in enumerate(row.variant.choice):
            block = [("teacher", position, number) for number in range(BLOCKS[position])]
            own = [("student", position, 0)]
            layers += block if is_patched else [*own, *(block[:1] if shape.shares_base else [])]
        for layer in layers:
            through[layer] = through.get(layer, 0) + row.tokens
        depth = sum(BLOCKS[n] if is_patched else 1 for n, is_patched in enumerate(row.variant.choice))
        counts["attention_stored"] += depth * (row.stored + row.tokens)
        if row.tokens == 1:
            counts["attention_rows"] += depth
        else:
            counts["attention_chunks"] += depth
            counts["attention_pairs"] += depth * row.tokens * (row.stored + row.tokens)
        if row.wants_logits:
            owner = "one" if shape.shares_head else str(row.variant.choice[-1])
            heads[owner] = heads.get(owner, 0) + 1
    for (owner, _, _), tokens in through.items():
        climb(counts, owner, tokens, (1, 2, 4, 8, 16, 32, 64))
    counts["steps"] = 1
    for wanted in heads.values():
        climb(counts, "head", wanted, (1, 2, 4, 8, 16))
    return counts


def climb(counts: dict[str, float], part: str, count: int, knots: tuple[int, ...]) -> None:
    counts[f"{part}_reads"] += 1
    for low, high in itertools.pairwise(knots):
        counts[f"{part}_to_{high}"] += float(np.interp(count, [low, high], [0, 1]))
    counts[f"{part}_over_{knots[-1]}"] += max(0, count - knots[-1])


@given(shapes, steps)
def test_features_are_those_counted_by_hand(shape: Shape, step: list[StepRow]):
    tally = Tally(shape)
    for row in step:
        tally.add(row)
    assert dict(zip(FEATURES, tally.features(), strict=True)) == pytest.approx(by_hand(shape, step))


@given(shapes, steps)
def test_a_step_costs_its_features(shape: Shape, step: list[StepRow]):
    expected = sum(COSTS[name] * count for name, count in by_hand(shape, step).items())
    assert LatencyModel.of(shape, COSTS).step_ms(step) == pytest.approx(expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_fit_finds_the_costs_that_made_the_measurements(shape: Shape):
    seen, held_out = random_steps(400, seed=1), random_steps(100, seed=2)
    truth = LatencyModel.of(shape, COSTS)
    fitted = LatencyModel.fit(shape, seen, [truth.step_ms(step) for step in seen])
    assert fitted.coefficients == pytest.approx(truth.coefficients, rel=1e-5)
    for step in held_out:
        assert fitted.step_ms(step) == pytest.approx(truth.step_ms(step), rel=1e-6)


def test_what_costs_nothing_is_fitted_to_nothing_whatever_the_noise():
    shape = SHAPES[0]
    truth = LatencyModel.of(shape, {"steps": 1.0, "teacher_reads": 0.5, "head_reads": 2.0})
    chance = random.Random(3)
    seen = random_steps(300, seed=4)
    fitted = LatencyModel.fit(shape, seen, [truth.step_ms(step) * chance.uniform(0.9, 1.1) for step in seen])
    assert min(fitted.coefficients) >= 0
    for step in random_steps(50, seed=5):
        assert fitted.step_ms(step) == pytest.approx(truth.step_ms(step), rel=0.1)


def test_errors_count_relative_to_what_was_measured():
    shape = SHAPES[0]
    short, long = ([StepRow(Variant.student(4), tokens, 0, False)] for tokens in (2, 30))
    model = LatencyModel.fit(shape, [short, short, long], [1.0, 1.0, 100.0])
    assert model.step_ms(short) == pytest.approx(1.0, rel=0.05)
    assert model.step_ms(long) == pytest.approx(100.0, rel=0.05)


@given(shapes, steps, rows, st.lists(st.floats(0, 10), min_size=len(FEATURES), max_size=len(FEATURES)))
def test_one_more_row_never_takes_less_time(shape: Shape, step: list[StepRow], row: StepRow, costs: list[float]):
    model = LatencyModel(shape, tuple(costs))
    assert model.step_ms([*step, row]) >= model.step_ms(step) - 1e-6


@given(
    shapes,
    steps,
    st.integers(1, 5),
    st.integers(0, 3),
    st.lists(st.floats(0, 10), min_size=len(FEATURES), max_size=len(FEATURES)),
)
def test_more_tokens_more_stored_and_more_layers_never_take_less_time(
    shape: Shape, step: list[StepRow], more: int, position: int, costs: list[float]
):
    model = LatencyModel(shape, tuple(costs))
    first, *others = step
    longer = StepRow(first.variant, first.tokens + more * (first.tokens > 1), first.stored + more, first.wants_logits)
    assert model.step_ms([longer, *others]) >= model.step_ms(step) - 1e-6
    # What a student layer costs is left out: it may be more than a short block of the teacher's.
    named = {name: cost for name, cost in zip(FEATURES, costs, strict=True) if not name.startswith("student")}
    model = LatencyModel.of(shape, named)
    choice = list(first.variant.choice)
    choice[position] = True
    larger = StepRow(Variant(tuple(choice)), first.tokens, first.stored, False)
    before = StepRow(first.variant, first.tokens, first.stored, False)
    assert model.step_ms([larger, *others]) >= model.step_ms([before, *others]) - 1e-6


def test_the_time_between_tokens_is_a_step_of_the_batch():
    model = LatencyModel.of(SHAPES[0], COSTS)
    variant = Variant((True, False, False, True))
    assert model.tpot_ms(variant, rows=3, stored=10) == model.step_ms([StepRow(variant, 1, 10, True)] * 3)


def test_a_step_of_nobody_takes_the_fixed_time_alone():
    assert LatencyModel.of(SHAPES[0], COSTS).step_ms([]) == COSTS["steps"]


def random_steps(count: int, *, seed: int) -> list[list[StepRow]]:
    chance = random.Random(seed)

    def row() -> StepRow:
        variant = Variant(tuple(chance.random() < 0.5 for _ in BLOCKS))
        tokens = chance.choice((1, 1, 1, 7, 24, 60))
        return StepRow(variant, tokens, chance.randrange(500), chance.random() < 0.7)

    return [[row() for _ in range(chance.randint(1, 30))] for _ in range(count)]


@given(shapes, steps)
def test_a_token_is_picked_for_each_row_that_wants_logits(shape: Shape, step: list[StepRow]):
    model = LatencyModel.of(shape, COSTS)
    parts = model.parts_ms(step)
    assert parts.picks == sum(row.wants_logits for row in step)
    assert parts.reading_ms + parts.computing_ms == pytest.approx(model.step_ms(step))
