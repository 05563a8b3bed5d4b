"""What `bench mixed` and `bench single` count. No figure of time is asserted."""

from functools import cache
from typing import Any

import pytest
from fakes import byte_tokenizer, tiny_bank

from anysize.bench.bandwidth import step_bytes
from anysize.bench.comparison import speeds, unlike
from anysize.bench.contenders import Places
from anysize.bench.decoding import Answered, Work, by_engine, by_engine_in_turn, by_transformers, model_for, prompts
from anysize.bench.mixed import bench_mixed, spread_sizes
from anysize.bench.single import bench_single
from anysize.family.family import Family
from anysize.family.variant import Variant

SHORT: dict[str, Any] = {
    "prompt_tokens": 5,
    "answer_tokens": 4,
    "rounds": 1,
    "places": Places(),
    "say": lambda _: None,
}


@cache
def family() -> Family:
    return Family("tiny", tiny_bank("llama", kind="delta", teacher_layers=8, kept=(0, 2, 3, 6)), byte_tokenizer())


def test_mixed_compares_with_contenders_whose_answers_agree():
    report = bench_mixed(family(), requests=6, sizes=3, against=["per-size-queues", "transformers"], **SHORT)

    assert (report["benchmark"], report["requests"], report["sizes"]) == ("mixed", 6, 3)
    assert report["answers_unlike_transformers"] == report["answers_unlike_per_size_queues"] == 0
    for other in ("per_size_queues", "transformers", "one_size_of_mean_depth"):
        ratio = report["mixed_tokens_per_s"] / report[f"{other}_tokens_per_s"]
        assert report[f"ratio_mixed_over_{other}"] == pytest.approx(ratio)


def test_single_measures_each_batch_size():
    report = bench_single(family(), family().teacher, batches=[1, 3], against=["transformers"], **SHORT)

    assert (report["benchmark"], report["size"]) == ("single", "teacher")
    for batch in (1, 3):
        assert report[f"batch_{batch}_answers_unlike_transformers"] == 0
        ratio = report[f"batch_{batch}_engine_tokens_per_s"] / report[f"batch_{batch}_transformers_tokens_per_s"]
        assert report[f"ratio_batch_{batch}_over_transformers"] == pytest.approx(ratio)


def test_every_way_answers_each_request_and_counts_its_tokens():
    work = [
        Work(size.variant, ids)
        for size, ids in zip(spread_sizes(family(), 2) * 2, prompts(family(), 4, 5), strict=True)
    ]
    model = model_for(family(), requests=4, tokens=10)

    ways = (
        by_engine(model, work, 4),
        by_engine_in_turn(model, work, 4),
        by_transformers(family(), work, 4),
    )

    for answered in ways:
        assert answered.token_ids == ways[0].token_ids
        assert [len(ids) for ids in answered.token_ids] == [4] * 4
        assert answered.decode_tokens == 4 * 3
        assert 0 < answered.decode_s < answered.total_s
    assert model.used_pages == 0


def test_rates_are_medians_of_tokens_by_their_own_time():
    rounds = [Answered([[1, 2, 3], [4, 5, 6]], total_s, total_s / 8, 4) for total_s in (2.0, 3.0, 100.0)]

    assert speeds({"ours": rounds}) == {"ours_tokens_per_s": 2.0, "ours_decode_tokens_per_s": 4 / 0.375}


def test_answers_that_differ_are_counted():
    ours, theirs = (Answered([[1, 2], [3, 4], last], 1.0, 1.0, 3) for last in ([5, 6], [5, 7]))

    assert (unlike(ours, ours), unlike(ours, theirs)) == (0, 1)


@pytest.mark.parametrize(("count", "layers"), [(1, [8]), (2, [4, 8]), (99, None)])
def test_sizes_are_spread_from_the_smallest_to_the_largest(count: int, layers: list[int] | None):
    spread = [size.layers for size in spread_sizes(family(), count)]

    assert spread == (layers or [size.layers for size in family().ladder])


def test_a_step_reads_each_weight_once_and_the_keys_and_values_of_each_row():
    bank = family().bank
    head = bank.teacher.lm_head.weight.numel()
    layers = {
        id(parameter): parameter.numel() for layer in bank.teacher.model.layers for parameter in layer.parameters()
    }
    weights = 4 * (sum(layers.values()) + 32 + head)
    kv = 2 * 2 * 8 * 4
    teacher, student = Variant.teacher(4), Variant.student(4)

    assert step_bytes(family(), [teacher], 10) == weights + 8 * 10 * kv
    assert step_bytes(family(), [teacher] * 3, 10) == weights + 3 * 8 * 10 * kv
    both = {id(p): p.numel() for model in (bank.teacher, bank.student) for p in model.parameters()}
    assert step_bytes(family(), [teacher, student], 10) == 4 * sum(both.values()) + (8 + 4) * 10 * kv
