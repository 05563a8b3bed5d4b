"""What the engine's steps say of predictions: a factor for reading memory, and one for computing."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysize.sizing.correction import Corrected, Correction
from anysize.sizing.latency import LatencyModel, Parts, Shape

MODEL = LatencyModel.of(Shape((1,), shares_base=True, shares_head=True), {})
DECODING, MIXED, PROMPT = Parts(9.0, 1.0), Parts(9.0, 9.0), Parts(4.0, 20.0)
factors = st.floats(0.5, 3)


@pytest.mark.parametrize(("truth", "learned"), [(1.7, 1.7), (0.8, 0.8), (20.0, 4.0), (0.01, 0.3)])
def test_steps_that_take_longer_or_less_are_learned_within_bounds(truth: float, learned: float):
    correction = Correction(MODEL)
    assert correction.corrected() == Corrected(MODEL)
    for _ in range(2000):
        correction.saw(DECODING, truth * sum(DECODING))
    assert correction.corrected().of(DECODING) == pytest.approx(learned * sum(DECODING), rel=1e-3)


@given(factors, factors)
def test_reading_and_computing_have_factors_of_their_own(reading: float, computing: float):
    correction, truth = Correction(MODEL), Corrected(MODEL, reading, computing)
    for _ in range(400):
        for parts in (DECODING, MIXED):
            correction.saw(parts, truth.of(parts))
    for parts in (DECODING, MIXED, PROMPT):
        assert correction.corrected().of(parts) == pytest.approx(truth.of(parts), rel=0.02)


def test_of_what_was_not_seen_half_is_believed():
    correction = Correction(MODEL)
    for _ in range(100):
        correction.saw(Parts(10.0, 0.0), 20.0)
    corrected = correction.corrected()
    assert corrected.reading == pytest.approx(2, rel=0.02)
    assert 1.3 <= corrected.computing <= 1.7


def test_a_step_that_somebody_held_up_says_little():
    correction = Correction(MODEL)
    for _ in range(200):
        correction.saw(DECODING, sum(DECODING))
    correction.saw(DECODING, 100 * sum(DECODING))
    assert correction.corrected().of(DECODING) < 1.1 * sum(DECODING)


def test_what_was_not_seen_for_long_is_learned_anew_but_not_from_one_step():
    correction = Correction(MODEL)
    for _ in range(20_000):
        correction.saw(DECODING, sum(DECODING))
    correction.saw(PROMPT, 100 * sum(PROMPT))
    assert correction.corrected().of(PROMPT) < 2.5 * sum(PROMPT)


def test_a_step_of_which_nothing_was_predicted_says_nothing():
    correction = Correction(MODEL)
    correction.saw(Parts(0.0, 0.0), 5.0)
    assert correction.corrected() == Corrected(MODEL)


def test_threads_that_learn_at_once_leave_factors_between_what_they_saw():
    correction = Correction(MODEL)

    def learn(ratio: float) -> None:
        for _ in range(300):
            correction.saw(DECODING, ratio * sum(DECODING))

    threads = [threading.Thread(target=learn, args=(ratio,)) for ratio in (0.9, 1.2, 1.5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.9 <= correction.corrected().of(DECODING) / sum(DECODING) <= 1.5
