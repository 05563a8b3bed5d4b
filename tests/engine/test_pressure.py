"""How much smaller sizes are under load: the policy, in numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import limits

from anysize.engine.pace import Pace
from anysize.engine.pressure import Pressure


def pressure(**given: int) -> Pressure:
    return Pressure(limits(max_running_requests=8, max_queued_requests=16, max_queued_tokens=1000, **given))


def observed(one: Pressure, answers: int, *, running: int = 8, tokens: int = 0) -> float:
    waiting = max(0, answers - running)
    one.observe(running=answers - waiting, waiting=waiting, waiting_tokens=tokens)
    return one.level


def test_it_rises_with_demand_from_half_of_the_places_to_one_and_a_half_of_them():
    assert [observed(pressure(), answers) for answers in range(0, 17, 2)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]


def test_it_falls_again_but_later_than_it_rose():
    one = pressure()
    rising = [observed(one, answers) for answers in range(4, 13)]
    falling = [observed(one, answers) for answers in range(12, 3, -1)]
    assert rising == [number / 8 for number in range(9)]
    assert falling[::-1] == rising
    # Between two levels it stays where it was, so that a load that goes to and fro changes nothing.
    fine = Pressure(limits(max_running_requests=80))
    assert observed(fine, 60, running=80) == 0.25
    levels = [observed(fine, answers, running=80) for answers in (69, 60, 65, 51, 50, 59, 69)]
    assert levels == [0.25, 0.25, 0.25, 0.25, 0.125, 0.125, 0.25]


@pytest.mark.parametrize("full", [{"waiting": 16, "waiting_tokens": 16}, {"waiting": 1, "waiting_tokens": 1000}])
def test_a_full_queue_is_all_of_it_so_nobody_is_refused_above_a_floor(full: dict[str, int]):
    one = pressure()
    one.observe(running=0, **full)
    assert one.level == 1
    assert one.pick(13) == 0


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(0, 20))
def test_everybody_goes_down_the_same_share_of_their_own_way(answers: list[int], top: int):
    one = pressure()
    for count in answers:
        level = observed(one, count)
        assert 0 <= level <= 1
        assert one.pick(top) == top - round(level * top)
        assert one.pick(top) <= one.pick(top + 1) <= one.pick(top) + 1


@given(
    st.none() | st.floats(1, 1000),
    st.none() | st.floats(1, 100_000),
    st.floats(0.1, 1000),
    st.integers(2, 100),
    st.integers(0, 100),
)
def test_an_answer_that_will_be_late_goes_down_and_one_with_time_to_spare_up(
    tpot_ms: float | None, total_ms: float | None, step_ms: float, tokens: int, left: int
):
    elapsed_ms = step_ms * tokens
    turn = Pace(tpot_ms, total_ms).turn(
        mean_ms=step_ms, recent_ms=step_ms, elapsed_ms=elapsed_ms, tokens=tokens, left=left
    )
    shares = [
        *([step_ms / tpot_ms] if tpot_ms is not None else []),
        *([(elapsed_ms + left * step_ms) / total_ms] if total_ms is not None else []),
    ]
    if any(share > 1 for share in shares):
        assert turn == -1
    elif not shares or 0.71 < max(shares) < 0.94:
        assert turn == 0
    elif max(shares) < 0.69:
        assert turn == 1


def test_what_comes_is_reckoned_with_the_present_speed():
    pace = Pace(tpot_ms=100)
    # Slow so far, but fast enough now for the mean to come right; and the other way round.
    assert pace.turn(mean_ms=120, recent_ms=60, elapsed_ms=0, tokens=11, left=90) == 1
    assert pace.turn(mean_ms=80, recent_ms=120, elapsed_ms=0, tokens=11, left=90) == -1
    assert pace.turn(mean_ms=120, recent_ms=60, elapsed_ms=0, tokens=91, left=10) == -1
