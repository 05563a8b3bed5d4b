"""The ladder, health, readiness and metrics."""

import re
import time

import pytest
from fakes import Gate, long_winded_family
from models import KV_BYTES, eventually
from prometheus_client.parser import text_string_to_metric_families
from serving import RunningService, serving

from anysize.commands.serve import load_model
from anysize.engine.request import GenerationRequest, Sampling
from anysize.errors import EngineError
from anysize.settings import Settings


def metrics(service: RunningService) -> dict[str, float]:
    """Every sample, by its name and labels as Prometheus writes them."""
    with service.client() as client:
        response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}"] = sample.value
    return samples


def _request(service: RunningService) -> GenerationRequest:
    ids = service.family.tokenizer("abc").input_ids
    return GenerationRequest(id="x", prompt_ids=ids, size=service.family.teacher, sampling=Sampling(max_tokens=3))


def moved(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """By how much each counter of the model grew; histograms by their count alone. HTTP has tests of its own."""
    return {
        name: value - before.get(name, 0.0)
        for name, value in after.items()
        if value != before.get(name, 0.0) and not re.search(r"_(bucket|sum|created)\{|^(process|anysize_http)_", name)
    }


def test_the_ladder_is_listed_smallest_first_with_what_each_size_costs(shared: RunningService):
    with shared.client() as client:
        listed = client.get("/variants").json()
    assert set(listed) == {"family", "blocks", "variants"}
    assert listed["blocks"] == [[0, 1], [2], [3, 4, 5], [6, 7]]
    assert listed["family"] == "tiny"
    for size, out in zip(shared.family.ladder, listed["variants"], strict=True):
        assert out == {
            "id": size.id,
            "parameters": size.footprint.parameters,
            "fraction": size.fraction,
            "distinct_parameters": size.footprint.distinct_parameters,
            "layers": size.layers,
            "bytes": size.footprint.bytes,
            "patched": list(size.variant.patched),
            "owners": {
                "embedding": size.variant.embedding_owner.value,
                "norm": size.variant.head_owner.value,
                "head": size.variant.head_owner.value,
            },
            "quality": None,
        }
    parameters = [out["parameters"] for out in listed["variants"]]
    assert parameters == sorted(set(parameters))
    assert (listed["variants"][0]["id"], listed["variants"][-1]["id"]) == ("student", "teacher")
    assert listed["variants"][-1]["fraction"] == 1.0


def test_an_idle_service_is_healthy_and_ready(shared: RunningService):
    with shared.client() as client:
        health, ready = client.get("/health"), client.get("/ready")
    assert (health.status_code, ready.status_code) == (200, 200)
    assert health.json() == {"status": "ok", "waiting": 0, "running": 0, "step_age_s": 0.0}
    assert ready.json() == {"ready": True, "family": "tiny"}


def test_a_step_that_takes_too_long_is_a_stall_and_idleness_is_not():
    with serving(long_winded_family(), stall_s=0.2) as service, service.client() as client:
        time.sleep(0.3)
        assert client.get("/health").json()["status"] == "ok"
        gate = Gate()
        service.family.before_step = gate
        future = service.state.engine.submit(_request(service))
        gate.wait()
        eventually(lambda: client.get("/health").status_code == 503)
        stalled = client.get("/health").json()
        assert (stalled["status"], stalled["running"]) == ("stalled", 1)
        assert client.get("/ready").status_code == 503
        with pytest.raises(EngineError, match="stuck"):
            future.result(timeout=30)  # while the step still stands
        refused = client.post("/generate", json={"prompt": "a", "max_tokens": 1})
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "engine_unavailable")
        gate.open()
        eventually(lambda: client.get("/ready").status_code == 200)
        assert client.get("/health").json()["status"] == "ok"
        assert client.post("/generate", json={"prompt": "a", "max_tokens": 1}).status_code == 200


def test_a_draining_service_is_healthy_but_not_ready(service: RunningService):
    service.state.engine.drain()
    eventually(lambda: not service.state.engine.state().alive)
    with service.client() as client:
        health, ready = client.get("/health"), client.get("/ready")
        refused = client.post("/generate", json={"prompt": "a"})
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "engine_unavailable")


def test_a_service_that_is_about_to_stop_is_not_ready_and_still_answers(service: RunningService):
    service.state.engine.announce_stop()
    with service.client() as client:
        assert client.get("/ready").status_code == 503
        assert client.get("/health").status_code == 200
    assert service.generate(prompt="a", max_tokens=1).status_code == 200


def test_a_dead_model_thread_is_seen(service: RunningService, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service.state.engine._thread, "is_alive", lambda: False)
    with service.client() as client:
        health, ready = client.get("/health"), client.get("/ready")
    assert (health.status_code, health.json()["status"]) == (503, "dead")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)


def test_counters_move_by_what_was_answered(service: RunningService):
    before = metrics(service)
    for _ in range(2):
        assert service.generate(prompt="abc", max_tokens=4, variant="student").status_code == 200
    assert service.generate(prompt="abcde", max_tokens=1).status_code == 200
    assert moved(before, metrics(service)) == {
        "anysize_batch_forward_duration_seconds_count{}": 4 + 4 + 1,
        "anysize_batch_current_size_count{}": 4 + 4 + 1,
        "anysize_iteration_tokens_count{}": 4 + 4 + 1,
        "anysize_request_success_total{finished_reason=length,variant=student}": 2,
        "anysize_request_success_total{finished_reason=length,variant=teacher}": 1,
        "anysize_prompt_tokens_total{}": 2 * 3 + 5,
        "anysize_prefix_cache_queries_total{}": 2 * 3 + 5,
        "anysize_generation_tokens_total{variant=student}": 8,
        "anysize_generation_tokens_total{variant=teacher}": 1,
        "anysize_request_queue_time_seconds_count{variant=student}": 2,
        "anysize_request_queue_time_seconds_count{variant=teacher}": 1,
        "anysize_time_to_first_token_seconds_count{variant=student}": 2,
        "anysize_time_to_first_token_seconds_count{variant=teacher}": 1,
        "anysize_inter_token_latency_seconds_count{variant=student}": 2,
        "anysize_e2e_request_latency_seconds_count{variant=student}": 2,
        "anysize_e2e_request_latency_seconds_count{variant=teacher}": 1,
        "anysize_request_prefill_time_seconds_count{variant=student}": 2,
        "anysize_request_prefill_time_seconds_count{variant=teacher}": 1,
        "anysize_request_decode_time_seconds_count{variant=student}": 2,
        "anysize_request_decode_time_seconds_count{variant=teacher}": 1,
        "anysize_request_prompt_tokens_count{}": 3,
        "anysize_request_generation_tokens_count{variant=student}": 2,
        "anysize_request_generation_tokens_count{variant=teacher}": 1,
    }


def test_failures_count_by_their_reason(service: RunningService):
    before = metrics(service)
    service.generate(prompt="abc", budget={"parameters": 1})
    service.generate(prompt="abc", variant="p99")
    service.generate(prompt="abc", variant="nonsense")
    assert moved(before, metrics(service)) == {
        "anysize_request_failure_total{reason=BudgetError}": 1,
        "anysize_request_failure_total{reason=VariantError}": 2,
    }


def test_label_values_come_from_the_ladder_alone(service: RunningService):
    for variant in ("p1", "p2", "p1-2", "teacher"):
        assert service.generate(prompt="abc", max_tokens=1, variant=variant).status_code == 200
    variants = set(re.findall(r"variant=([^,}]*)", " ".join(metrics(service))))
    assert variants <= {size.id for size in service.family.ladder} | {"other"}
    assert metrics(service)["anysize_generation_tokens_total{variant=other}"] == 3


def test_gauges_show_what_waits_and_what_runs(service: RunningService):
    gate = Gate()
    service.family.before_step = gate
    futures = [service.state.engine.submit(_request(service))]
    gate.wait()
    futures += [service.state.engine.submit(_request(service)) for _ in range(2)]
    samples = metrics(service)
    assert samples["anysize_num_requests_waiting{}"] == 2
    assert samples["anysize_num_requests_running{}"] == 1
    gate.open()
    for future in futures:
        future.result(timeout=30)
    samples = metrics(service)
    assert samples["anysize_num_requests_waiting{}"] == samples["anysize_num_requests_running{}"] == 0


def test_kv_pages_are_counted_while_they_are_held(service: RunningService):
    gate = Gate()
    service.family.before_step = gate
    total = metrics(service)["anysize_kv_pages_total{}"]
    future = service.state.engine.submit(_request(service))
    gate.wait()
    samples = metrics(service)
    assert samples["anysize_kv_pages_used{}"] == service.family.teacher.layers  # one page a layer
    assert samples["anysize_kv_cache_usage_perc{}"] == samples["anysize_kv_pages_used{}"] / total
    gate.open()
    future.result(timeout=30)
    eventually(lambda: metrics(service)["anysize_kv_pages_used{}"] == 0)


def test_a_prompt_that_was_run_before_is_counted_as_known(service: RunningService):
    smallest, teacher = service.family.ladder[0].id, service.family.ladder[-1].id
    prompt = "x" * 40  # two pages of 16 tokens, and a half
    answers = {}
    for variant in (smallest, smallest, teacher, teacher):
        response = service.generate(prompt=prompt, max_tokens=4, variant=variant)
        assert response.status_code == 200
        answers.setdefault(variant, []).append(response.json())
    for first, second in answers.values():
        assert (first["usage"]["cached_tokens"], second["usage"]["cached_tokens"]) == (0, 32)
        assert first["text"] == second["text"]
    samples = metrics(service)
    assert samples["anysize_prefix_cache_queries_total{}"] == 4 * 40
    assert samples["anysize_prefix_cache_hits_total{}"] == 2 * 32
    assert samples["anysize_prefix_cache_resumed_total{}"] == 0  # the two sizes differ from the first layer on
    between = service.family.ladder[1].id
    assert service.generate(prompt=prompt, max_tokens=4, variant=between).json()["usage"]["cached_tokens"] == 0
    assert metrics(service)["anysize_prefix_cache_resumed_total{}"] == 32
    assert samples["anysize_kv_pages_cached{}"] > 0
    assert samples["anysize_kv_pages_used{}"] == 0


def test_without_the_prefix_cache_nothing_is_known():
    family = long_winded_family()
    model = load_model(Settings(prefix_cache=False, kv_bytes=KV_BYTES), family, None)
    assert not model.keeps(1000)
    assert load_model(Settings(kv_bytes=KV_BYTES), family, None).keeps(1000)


def test_prompts_are_in_no_metric(service: RunningService):
    service.generate(prompt="canary-7f3a", max_tokens=1)
    service.generate(prompt="canary-7f3a", variant="canary-7f3a")
    assert "canary" not in " ".join(metrics(service))
