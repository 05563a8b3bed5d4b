"""Latency budgets over HTTP, with calibrations made by hand: no time that was really taken decides anything."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from calibrated import MS_A_LAYER, calibration
from fakes import long_winded_family
from serving import RunningService, serving

PROMPT = "The sea"


@pytest.fixture(scope="module")
def calibrated() -> Iterator[RunningService]:
    family = long_winded_family()
    with serving(family, calibration=calibration(family)) as running:
        # A correction would learn that this tiny model is faster than its calibration says.
        running.state.planner._correction.saw = lambda *_, **__: None  # pyright: ignore[reportOptionalMemberAccess]
        yield running


def ask(service: RunningService, headers: dict[str, str] | None = None, **body: Any) -> Any:
    with service.client() as client:
        return client.post("/generate", json={"prompt": PROMPT, "max_tokens": 4, **body}, headers=headers or {})


def test_the_largest_size_that_is_expected_to_keep_it_answers(calibrated: RunningService):
    for size in calibrated.family.ladder:
        answer = ask(calibrated, budget={"tpot_ms": MS_A_LAYER * size.layers + 1}).json()

        assert answer["variant"]["id"] == size.id
        assert answer["budget_kept"] is True
        assert answer["timing"]["predicted"]["tpot_ms"] == pytest.approx(MS_A_LAYER * size.layers)
        assert answer["timing"]["predicted"]["total_ms"] == pytest.approx(4 * MS_A_LAYER * size.layers)


@pytest.mark.parametrize("name", ["ttft_ms", "tpot_ms"])
def test_headers_mean_the_same_and_the_smaller_bound_counts(calibrated: RunningService, name: str):
    smallest, largest = calibrated.family.ladder[0], calibrated.family.ladder[-1]
    tight, loose = MS_A_LAYER * smallest.layers + 1, MS_A_LAYER * largest.layers + 1
    header = f"x-slo-{name.replace('_', '-')}"

    assert ask(calibrated, {header: str(loose)}).json()["variant"]["id"] == largest.id
    assert ask(calibrated, {header: str(tight)}).json()["variant"]["id"] == smallest.id
    assert ask(calibrated, {header: str(tight)}, budget={name: loose}).json()["variant"]["id"] == smallest.id
    assert ask(calibrated, {header: str(loose)}, budget={name: tight}).json()["variant"]["id"] == smallest.id


def test_bounds_of_size_and_of_time_hold_together(calibrated: RunningService):
    middle = calibrated.family.ladder[1]

    answer = ask(calibrated, budget={"tpot_ms": 1e6, "parameters": middle.footprint.parameters}).json()

    assert answer["variant"]["id"] == middle.id


def test_what_cannot_be_kept_is_answered_by_the_smallest_and_said(calibrated: RunningService):
    answer = ask(calibrated, budget={"total_ms": 1.0}).json()

    assert answer["variant"]["id"] == calibrated.family.ladder[0].id
    assert answer["budget_kept"] is False


def test_or_it_is_refused_with_what_is_possible(calibrated: RunningService):
    refused = ask(calibrated, budget={"tpot_ms": 1.0, "on_miss": "reject"})

    assert refused.status_code == 422
    error = refused.json()["error"]
    assert error["type"] == "budget_too_small"
    assert f"tpot_ms {MS_A_LAYER * calibrated.family.ladder[0].layers:.1f}" in error["message"]


def test_a_stream_ends_with_what_was_expected(calibrated: RunningService):
    text = ask(calibrated, budget={"tpot_ms": 1e6}, stream=True).text

    done = json.loads(text.split("event: done\ndata: ")[1].splitlines()[0])
    assert done["budget_kept"] is True
    assert set(done["timing"]["predicted"]) == {"ttft_ms", "tpot_ms", "total_ms"}


def test_an_answer_without_a_latency_budget_says_nothing_of_one(calibrated: RunningService):
    answer = ask(calibrated, budget={"fraction": 1.0}).json()

    assert "budget_kept" not in answer
    assert "predicted" not in answer["timing"]
    assert "kept" not in answer["timing"]


def test_sizes_are_listed_with_what_a_token_is_expected_to_take(calibrated: RunningService):
    with calibrated.client() as client:
        listed = client.get("/variants").json()["variants"]

    for variant in listed:
        assert set(variant["predicted_tpot_ms"]) == {"1", "4", "16"}
        assert variant["predicted_tpot_ms"]["1"] == pytest.approx(MS_A_LAYER * variant["layers"])


def test_kept_and_missed_budgets_are_counted(calibrated: RunningService):
    with calibrated.client() as client:
        before = client.get("/metrics").text
        ask(calibrated, budget={"tpot_ms": 1e6})
        after = client.get("/metrics").text

    def kept(text: str) -> float:
        (line,) = (line for line in text.splitlines() if line.startswith("anysize_latency_budget_kept_total"))
        return float(line.rsplit(" ", 1)[1])

    assert kept(after) == kept(before) + 1


@pytest.mark.parametrize(
    "budget",
    [{"ttft_ms": 0}, {"tpot_ms": -1}, {"total_ms": "9"}, {"ttft_ms": 1e12}, {"tpot_ms": 9, "on_miss": "maybe"}],
)
def test_bounds_out_of_range_are_refused(calibrated: RunningService, budget: dict[str, Any]):
    assert ask(calibrated, budget=budget).status_code == 422


@pytest.mark.parametrize("value", ["0", "nan", "inf", "soon", "-4"])
def test_headers_out_of_range_are_refused(calibrated: RunningService, value: str):
    refused = ask(calibrated, {"x-slo-ttft-ms": value})

    assert refused.status_code == 422
    assert refused.json()["error"]["type"] == "invalid_request"


def test_without_a_calibration_the_error_names_the_command():
    with serving(long_winded_family()) as service:
        refused = ask(service, budget={"tpot_ms": 50.0})

        assert refused.status_code == 422
        assert refused.json()["error"]["type"] == "not_calibrated"
        assert "anysize calibrate" in refused.json()["error"]["message"]
        assert ask(service, {"x-slo-ttft-ms": "50"}).json()["error"]["type"] == "not_calibrated"
        assert ask(service).status_code == 200
        with service.client() as client:
            assert "predicted_tpot_ms" not in client.get("/variants").json()["variants"][0]
