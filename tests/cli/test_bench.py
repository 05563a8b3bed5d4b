"""What the benchmarks count. No figure of time or memory is asserted."""

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from fakes import byte_tokenizer, tiny_bank
from torch import nn
from transformers import PreTrainedModel

from anysize.bench.build import bench_build
from anysize.bench.memory import bench_memory
from anysize.bench.prefix import bench_prefix, spread_pairs
from anysize.family.family import Family
from anysize.family.variant import Variant


@cache
def family() -> Family:
    return Family("tiny", tiny_bank("llama", kind="delta"), byte_tokenizer())


def test_assembling_every_size_adds_no_weight_bytes():
    report = bench_build(family(), rounds=3)
    assert set(report) == {
        "benchmark",
        "sizes",
        "rounds",
        "median_ms",
        "slowest_size_median_ms",
        "worst_ms",
        "new_weight_bytes",
        "size_median_ms",
    }
    assert (report["benchmark"], report["sizes"], report["rounds"]) == ("build", len(family().ladder), 3)
    assert report["new_weight_bytes"] == 0
    assert [*report["size_median_ms"]] == [size.id for size in family().ladder]
    assert max(report["size_median_ms"].values()) == report["slowest_size_median_ms"]
    assert 0 < report["median_ms"] <= report["slowest_size_median_ms"] <= report["worst_ms"]


@pytest.mark.parametrize("size", [0, -1], ids=["smallest", "teacher"])
def test_one_copied_tensor_in_one_size_is_counted(monkeypatch: pytest.MonkeyPatch, size: int):
    honest = family().assemble
    spoiled = family().ladder[size].variant

    def assemble(variant: Variant) -> PreTrainedModel:
        model = honest(variant)
        if variant == spoiled:
            weight = model.lm_head.weight
            model.lm_head = copy.copy(model.lm_head)
            model.lm_head._parameters = {"weight": nn.Parameter(weight.detach().clone())}
        return model

    monkeypatch.setattr(family(), "assemble", assemble)
    weight = honest(spoiled).lm_head.weight
    assert bench_build(family(), rounds=3)["new_weight_bytes"] == weight.numel() * weight.element_size()


def test_a_copied_buffer_is_counted(monkeypatch: pytest.MonkeyPatch):
    honest = family().assemble

    def assemble(variant: Variant) -> PreTrainedModel:
        model = honest(variant)
        model.register_buffer("extra", torch.zeros(5))
        return model

    monkeypatch.setattr(family(), "assemble", assemble)
    assert bench_build(family(), rounds=3)["new_weight_bytes"] == 20 * len(family().ladder)


def test_a_prompt_answers_alike_whoever_ran_it_before():
    report = bench_prefix(family(), pairs=3, prompt_tokens=50, answer_tokens=4, rounds=1)
    assert report["benchmark"] == "prefix"
    assert report["answers_unlike_cold_ones"] == 0
    shares = [value for name, value in report.items() if name.endswith("_shared_share") and "_over_" not in name]
    assert shares == [
        pytest.approx(1 / 3)
    ]  # the student has one of three layers below the size that patches all but one
    for name in ("saved_over_shared_share", "same_size_again_over_cold", "decode_time_after_hit_over_cold"):
        assert f"ratio_{name}" in report


def test_pairs_run_from_those_that_share_most():
    pairs = spread_pairs(family(), 8)
    assert pairs
    assert [pair.shared_share for pair in pairs] == sorted((pair.shared_share for pair in pairs), reverse=True)
    for pair in pairs:
        first, second = (size.variant.stack(family().bank.blocks) for size in (pair.first, pair.second))
        shared = next(n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        assert pair.shared_share == shared / len(second)
    assert len(spread_pairs(family(), 1)) == 1


def test_memory_is_measured_on_a_service_of_its_own(folder: Path):
    report = bench_memory(folder)
    assert set(report) == {
        "benchmark",
        "sizes",
        "teacher_bytes",
        "all_sizes_bytes",
        "ratio_all_sizes_over_teacher",
    }
    assert report["benchmark"] == "memory"
    assert report["sizes"] == 3
    assert report["ratio_all_sizes_over_teacher"] == report["all_sizes_bytes"] / report["teacher_bytes"]
