"""A margin that follows the engine: as wide as the times are bad, and no wider."""

from random import Random

import pytest

from anysize.sizing.correction import Corrected
from anysize.sizing.latency import LatencyModel, Parts, Shape
from anysize.sizing.lateness import Lateness
from anysize.sizing.margin import Margin

EXACT = Corrected(LatencyModel.of(Shape((1,), shares_base=True, shares_head=True), {}))
STEP = Parts(9.0, 1.0, 1)
MS = 10.0


@pytest.mark.parametrize("chance", [0.02, 0.3])
def test_it_settles_where_the_wanted_share_of_steps_is_inside(chance: float):
    random, lateness, inside = Random(0), Lateness(Margin(1.5, 1.01)), 0
    for number in range(12_000):
        measured_ms = MS * (1 + random.gauss(0, chance))
        if number >= 6000:
            inside += measured_ms <= lateness.margin().step * MS
        lateness.saw(STEP, measured_ms, EXACT, has_prompt=True)
    assert 0.955 <= inside / 6000 <= 0.985


def test_what_chance_does_to_steps_it_does_less_to_many_of_them():
    random, lateness = Random(0), Lateness(Margin(1.01, 1.01))
    for _ in range(12_000):
        lateness.saw(STEP, MS * (1 + random.gauss(0, 0.2)), EXACT, has_prompt=True)
    margin = lateness.margin()
    assert margin.step > 1.3
    assert 1.05 < margin.lasting < 1.2


def test_it_widens_in_times_that_change_and_narrows_when_they_are_over():
    lateness = Lateness(Margin(1.1, 1.01))
    for number in range(9600):
        lateness.saw(STEP, MS * (1.2 if number // 96 % 3 == 0 else 1.0), EXACT, has_prompt=True)
    assert lateness.margin().lasting == pytest.approx(1.2, abs=0.05)
    for _ in range(9600):
        lateness.saw(STEP, MS, EXACT, has_prompt=True)
    assert lateness.margin() == Margin(1.0, 1.0)


def test_it_stays_within_bounds():
    lateness = Lateness(Margin(1.1, 1.01))
    for _ in range(2000):
        lateness.saw(STEP, 100 * MS, EXACT, has_prompt=True)
    assert lateness.margin() == Margin(2.0, 2.0)


def test_a_stretch_is_held_against_what_was_predicted_when_it_began():
    lateness = Lateness(Margin(1.0, 1.0))
    for number in range(16 * 50):
        slow = number % 16 != 0
        corrected = Corrected(EXACT.model, *((1.5, 1.5) if slow else (1.0, 1.0)))
        lateness.saw(STEP, MS * (1.5 if slow else 1.0), corrected, has_prompt=True)
    assert lateness.margin().lasting > 1.4


def test_steps_that_only_decode_say_nothing_of_single_ones():
    lateness = Lateness(Margin(1.3, 1.2))
    for _ in range(200):
        lateness.saw(STEP, MS, EXACT, has_prompt=False)
    assert lateness.margin().step == 1.3
    assert lateness.margin().lasting < 1.2
