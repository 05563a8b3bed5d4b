"""The simulated fleet: nothing gets lost in it, it is as fast as its figures say, and it scales by Kubernetes' rule."""

from pathlib import Path

import numpy as np
import pytest
from dashboard import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler import Autoscaler
from fleet import Fleet
from replica import Replica

MANIFEST = REPOSITORY / "deploy" / "k8s" / "autoscaler.yaml"


def replica(places: int = 4, queue: int = 8) -> Replica:
    """One whose largest of three sizes takes twice as long as its smallest."""
    fractions = [0.5, 0.75, 1.0]
    steps = [[10 * fraction * (10 + n) for n in range(places)] for fraction in fractions]
    prefill_ms = [100 * fraction for fraction in fractions]
    return Replica(
        family="made up", processor="none", threads=1, places=places, queue=queue,
        fractions=fractions, prefill_ms=prefill_ms, step_ms=steps,
    )  # fmt: skip


def autoscaler(target: float = 0.5, most: int = 1000, stable_s: float = 0) -> Autoscaler:
    return Autoscaler("demand", target, least=1, most=most, up_share=1.0, up_count=4, down_share=0.1, stable_s=stable_s)


@given(
    rate=st.floats(0, 40), count=st.integers(1, 6), adapts=st.booleans(), scales=st.booleans(), seed=st.integers(0, 99)
)
@settings(max_examples=25, deadline=None)
def test_every_request_is_answered_refused_or_there(
    rate: float, count: int, adapts: bool, scales: bool, seed: int
) -> None:
    fleet = Fleet(replica(), count, adapts=adapts, start_s=5, seed=seed)
    counted = fleet.run(60, lambda now_s: rate if now_s < 30 else rate / 10, autoscaler() if scales else None)
    assert counted.arrived == counted.answered + counted.refused + fleet.present
    assert all(wait >= 0 for wait in counted.waits_s)


def test_a_full_replica_answers_as_many_as_its_figures_say() -> None:
    one = replica(places=4)
    fleet = Fleet(one, 1, adapts=False, start_s=5, seed=0)
    counted = fleet.run(1500, lambda now_s: 20.0, None)
    assert counted.answered / 1500 == pytest.approx(one.capacity_per_s(1.0), rel=0.1)


def test_sizes_that_follow_the_load_refuse_fewer() -> None:
    def refused(adapts: bool) -> int:
        fleet = Fleet(replica(), 4, adapts=adapts, start_s=5, seed=1)
        return fleet.run(600, lambda now_s: 4 * 1.3 * replica().capacity_per_s(1.0), None).refused

    assert refused(adapts=True) < refused(adapts=False) / 4


def test_a_fleet_grows_to_its_target_and_shrinks_again() -> None:
    one = replica()
    fleet = Fleet(one, 2, adapts=False, start_s=5, seed=0)
    rate_per_s = 20 * one.capacity_per_s(0.5)
    fleet.run(600, lambda now_s: rate_per_s, autoscaler())
    assert fleet.total == pytest.approx(20, abs=4)
    fleet.run(2400, lambda now_s: 0.1 * rate_per_s, autoscaler())
    assert fleet.total == pytest.approx(2, abs=2)


def test_decisions_are_those_of_kubernetes_documentation() -> None:
    assert autoscaler().decide(0, 10, [1.0] * 10) == 20  # twice the target
    assert autoscaler().decide(0, 10, [0.54] * 10) == 10  # within a tenth of it
    assert autoscaler().decide(0, 10, [1.0] * 5) == 10  # five are starting, and count as idle
    assert autoscaler().decide(0, 10, [0.2] * 5) == 10  # nothing goes while some are starting
    assert autoscaler().decide(0, 2, [9.0] * 2) == 6  # at most twice as many, or four more
    assert autoscaler(most=12).decide(0, 10, [1.0] * 10) == 12
    assert autoscaler().decide(0, 100, [0.1] * 100) == 90  # a tenth in a minute
    patient = autoscaler(stable_s=300)
    assert [patient.decide(now_s, 10, [share] * 10) for now_s, share in ((0, 0.5), (15, 0.1), (299, 0.1))] == [10] * 3
    assert patient.decide(400, 10, [0.1] * 10) == 9


def test_the_manifest_is_what_is_simulated() -> None:
    read = Autoscaler.of_manifest(MANIFEST, "demand")
    assert (read.target, read.least, read.most) == (0.5, 2, 1000)
    assert (read.up_share, read.up_count, read.down_share, read.stable_s) == (1.0, 4, 0.1, 300)


def test_the_figures_of_a_replica_are_whole() -> None:
    read = Replica.read(Path(REPOSITORY / "deploy" / "simulate" / "replica.json"))
    assert len(read.fractions) == len(read.prefill_ms) == len(read.step_ms)
    assert all(len(of_size) == read.places for of_size in read.step_ms)
    assert np.all(np.diff(read.fractions) > 0)
    assert np.all(np.diff(np.asarray(read.step_ms), axis=1) >= 0)
