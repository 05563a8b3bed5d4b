"""The JSON of an answer, from an answer that the test makes; and what counts it."""

from dataclasses import replace

import pytest
from fakes import long_winded_family

from anysize.api.answer import GenerateOut, TokenTexts
from anysize.api.metrics import Metrics
from anysize.engine.engine import StepReport
from anysize.engine.request import Choice, Completion, GenerationRequest, Sampling, Timing
from anysize.engine.workload import StepRow

FAMILY = long_winded_family()
REQUEST = GenerationRequest(
    id="gen-1", prompt_ids=[70, 71, 72], size=FAMILY.ladder[0], sampling=Sampling(max_tokens=4), samples=2
)
COMPLETION = Completion(
    choices=(
        Choice(text="ab", token_ids=[5, 6], finish_reason="stop"),
        Choice(text="cde", token_ids=[7, 8, 9], finish_reason="length"),
    ),
    timing=Timing(queue_ms=1000.12345, ttft_ms=2000.0, tpot_ms=300.0, total_ms=4000.0),
    size=FAMILY.ladder[0],
)


def test_each_field_says_what_it_is_named_for():
    out = GenerateOut.of(REQUEST, COMPLETION, TokenTexts(FAMILY.tokenizer)).model_dump(exclude_unset=True)

    assert (out["id"], out["text"], out["finish_reason"]) == ("gen-1", "ab", "stop")
    assert out["choices"] == [
        {"index": 0, "text": "ab", "finish_reason": "stop"},
        {"index": 1, "text": "cde", "finish_reason": "length"},
    ]
    assert out["usage"] == {"prompt_tokens": 3, "cached_tokens": 0, "completion_tokens": 5, "total_tokens": 8}
    assert out["timing"] == {"queue_ms": 1000.123, "ttft_ms": 2000.0, "tpot_ms": 300.0, "total_ms": 4000.0}


LATENCIES_S = {
    "anysize_request_queue_time_seconds": 1.00012345,
    "anysize_time_to_first_token_seconds": 2.0,
    "anysize_inter_token_latency_seconds": 0.3,
    "anysize_e2e_request_latency_seconds": 4.0,
}


def test_each_latency_is_observed_in_seconds_under_its_own_name():
    metrics = Metrics(FAMILY.ladder)

    metrics.finished(REQUEST, COMPLETION)

    for name, wanted_s in LATENCIES_S.items():
        observed_s = metrics.registry.get_sample_value(f"{name}_sum", {"variant": REQUEST.size.id})
        assert observed_s == pytest.approx(wanted_s), name


def test_a_cancelled_request_counts_its_tokens_but_no_latency():
    metrics = Metrics(FAMILY.ladder)
    left = replace(COMPLETION, choices=(*COMPLETION.choices, Choice(text="", token_ids=[], finish_reason="cancelled")))

    metrics.finished(REQUEST, left)

    variant = {"variant": REQUEST.size.id}
    assert metrics.registry.get_sample_value("anysize_generation_tokens_total", variant) == 5
    cancelled = {**variant, "finished_reason": "cancelled"}
    assert metrics.registry.get_sample_value("anysize_request_success_total", cancelled) == 1
    assert all(metrics.registry.get_sample_value(f"{name}_count", variant) is None for name in LATENCIES_S)


def test_a_step_is_observed_by_its_time_its_answers_and_its_tokens():
    metrics = Metrics(FAMILY.ladder)

    row = StepRow(REQUEST.size.variant, tokens=1, stored=9, wants_logits=True)
    rows = (row, row, StepRow(REQUEST.size.variant, tokens=38, stored=0, wants_logits=False))
    metrics.stepped(StepReport(rows=rows, duration_s=0.5, whole_s=0.6))

    for name, wanted in (
        ("anysize_batch_forward_duration_seconds", 0.5),
        ("anysize_batch_current_size", 3),
        ("anysize_iteration_tokens", 40),
    ):
        assert metrics.registry.get_sample_value(f"{name}_sum") == wanted
