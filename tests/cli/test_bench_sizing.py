"""What `bench budgets` and `bench burst` count, on tiny families with calibrations made by hand."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from calibrated import calibration
from fakes import long_winded_family
from models import HashModel, limits

from anysize.bench import budgets
from anysize.bench.budgets import bench_budgets
from anysize.bench.burst import Law, bench_burst
from anysize.bench.desk import Desk, desk
from anysize.engine.engine import Engine
from anysize.family.family import Family
from anysize.settings import Settings
from anysize.sizing.margin import Margin
from anysize.sizing.planner import Planner

MS_A_LAYER = 0.001


@contextmanager
def hash_desk(family: Family, **given: int) -> Iterator[Desk]:
    """A desk whose steps take no time worth mentioning."""
    engine = Engine(family, HashModel(), limits(**given))
    engine.start()
    found = calibration(family, MS_A_LAYER)
    try:
        yield Desk(family, engine, Planner(found.model(), limits(**given), margin=Margin()))
    finally:
        engine.stop(within_s=10)


def test_budgets_are_counted_against_the_largest_size_that_could_have_kept_them():
    family, shares = long_winded_family(), []
    with hash_desk(family) as one:
        report = bench_budgets(one, requests=12, seed=1, on_progress=shares.append)

    assert shares[-1] == 1
    assert report["requests"] == 12
    assert 1 <= report["feasible"] <= 12
    assert report["ratio_kept_over_feasible"] == report["kept"] / report["feasible"]
    assert report["ratio_size_over_oracle"] == report["mean_parameters"] / report["oracle_mean_parameters"]
    sizes = [size.footprint.parameters for size in family.ladder]
    assert sizes[0] <= report["oracle_mean_parameters"] <= sizes[-1]


def test_the_oracle_finds_the_largest_size_inside_a_bound(monkeypatch: pytest.MonkeyPatch):
    ladder = long_winded_family().ladder
    monkeypatch.setattr(budgets, "_run_ms", lambda _desk, _shape, _kind, size: size.footprint.parameters)
    with hash_desk(long_winded_family()) as one:
        for size in ladder[:-1]:
            found = budgets._largest(one, budgets._SHAPES[0], "ttft", size.footprint.parameters)
            assert found.id == size.id


def test_a_burst_is_played_under_each_policy_and_every_request_has_one_end():
    family, said = long_winded_family(), []
    law = Law(quiet=0.02, burst=0.05, quiet_s=0.2, burst_s=0.2, seconds=0.6, seed=1)
    small = {"max_running_requests": 2, "max_queued_requests": 2}

    model = calibration(family, MS_A_LAYER).model()
    bound, play = limits(**small), lambda: hash_desk(family, **small)
    report = bench_burst(family, model, bound, play, law, slack=1000, say=said.append)

    assert [line.split(":")[0] for line in said] == ["largest", "smallest", "anysize", "resizing"]
    assert report["requests"] > 10
    for policy in ("largest", "smallest", "anysize", "resizing"):
        assert report[policy]["answered"] + report[policy]["refused"] == report["requests"]
        assert 0 <= report[policy]["attainment"] <= 1
    assert report["largest"]["mean_parameters"] == family.teacher.footprint.parameters
    assert report["smallest"]["mean_parameters"] == family.ladder[0].footprint.parameters
    assert report["anysize"]["refused_above_floor"] == report["resizing"]["refused_above_floor"] == 0


@pytest.mark.parametrize("with_floor", [False, True])
def test_a_desk_is_what_a_service_would_be_with_a_real_model(with_floor: bool):
    from anysize.bench.decoding import model_for
    from anysize.sizing.budget import Budget

    family = long_winded_family()
    floor = family.ladder[0].footprint.parameters if with_floor else None
    with desk(family, model_for(family, requests=2, tokens=64), Settings(), calibration(family, MS_A_LAYER)) as one:
        answer = one.budgeted([5, 6, 7], 4, Budget(tpot_ms=1e6, min_parameters=floor)).result(timeout=60)
    assert answer.size is family.teacher
    assert answer.completion_tokens == 4
