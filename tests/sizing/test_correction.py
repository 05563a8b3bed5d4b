"""What the engine's steps say of predictions: factors for reading memory and computing, and times around the model."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anysize.sizing.correction import Corrected, Correction
from anysize.sizing.latency import LatencyModel, Parts, Shape

MODEL = LatencyModel.of(Shape((1,), shares_base=True, shares_head=True), {})
DECODING, MIXED, PROMPT = Parts(9.0, 1.0, 1), Parts(9.0, 9.0, 9), Parts(4.0, 20.0, 1)
factors = st.floats(0.5, 3)


def predicted_ms(parts: Parts) -> float:
    return parts.reading_ms + parts.computing_ms


def see(correction: Correction, parts: Parts, model_ms: float, *, around_ms: float = 0.0) -> None:
    correction.saw(parts, model_ms=model_ms, whole_ms=model_ms + around_ms)


@pytest.mark.parametrize(("truth", "learned"), [(1.7, 1.7), (0.8, 0.8), (20.0, 4.0), (0.01, 0.3)])
def test_steps_that_take_longer_or_less_are_learned_within_bounds(truth: float, learned: float):
    correction = Correction(MODEL)
    assert correction.corrected() == Corrected(MODEL)
    for _ in range(2000):
        see(correction, DECODING, truth * predicted_ms(DECODING))
    assert correction.corrected().of(DECODING) == pytest.approx(learned * predicted_ms(DECODING), rel=1e-3)


@given(factors, factors)
def test_reading_and_computing_have_factors_of_their_own(reading: float, computing: float):
    correction, truth = Correction(MODEL), Corrected(MODEL, reading, computing)
    for _ in range(400):
        for parts in (DECODING, MIXED):
            see(correction, parts, truth.of(parts))
    for parts in (DECODING, MIXED, PROMPT):
        assert correction.corrected().of(parts) == pytest.approx(truth.of(parts), rel=0.02)


@given(st.floats(0, 5), st.floats(0, 1))
def test_what_goes_on_around_a_step_is_no_matter_of_its_size(around_ms: float, pick_ms: float):
    correction = Correction(MODEL)
    for _ in range(400):
        for parts in (DECODING, MIXED):
            see(correction, parts, 2 * predicted_ms(parts), around_ms=around_ms + pick_ms * parts.picks)
    for parts in (DECODING, MIXED, PROMPT):
        expected_ms = 2 * predicted_ms(parts) + around_ms + pick_ms * parts.picks
        assert correction.corrected().of(parts) == pytest.approx(expected_ms, rel=0.02, abs=0.1)


def test_of_what_was_not_seen_half_is_believed():
    correction = Correction(MODEL)
    for _ in range(100):
        see(correction, Parts(10.0, 0.0, 1), 20.0)
    corrected = correction.corrected()
    assert corrected.reading == pytest.approx(2, rel=0.02)
    assert 1.3 <= corrected.computing <= 1.7


def test_a_step_that_somebody_held_up_says_little():
    correction = Correction(MODEL)
    for _ in range(200):
        see(correction, DECODING, predicted_ms(DECODING))
    see(correction, DECODING, 100 * predicted_ms(DECODING))
    assert correction.corrected().of(DECODING) < 1.1 * predicted_ms(DECODING)


def test_what_was_not_seen_for_long_is_learned_anew_but_not_from_one_step():
    correction = Correction(MODEL)
    for _ in range(20_000):
        see(correction, DECODING, predicted_ms(DECODING))
    see(correction, PROMPT, 100 * predicted_ms(PROMPT))
    assert correction.corrected().of(PROMPT) < 2.5 * predicted_ms(PROMPT)


def test_a_step_of_which_nothing_was_predicted_says_nothing():
    correction = Correction(MODEL)
    see(correction, Parts(0.0, 0.0, 0), 5.0, around_ms=1.0)
    assert correction.corrected() == Corrected(MODEL)


def test_threads_that_learn_at_once_leave_factors_between_what_they_saw():
    correction = Correction(MODEL)

    def learn(ratio: float) -> None:
        for _ in range(300):
            see(correction, DECODING, ratio * predicted_ms(DECODING))

    threads = [threading.Thread(target=learn, args=(ratio,)) for ratio in (0.9, 1.2, 1.5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.9 <= correction.corrected().of(DECODING) / predicted_ms(DECODING) <= 1.5
