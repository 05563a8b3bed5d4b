"""Many sizes in one batch against one queue a size, transformers, and one size alone."""

import statistics
from collections.abc import Callable
from typing import Any

from anysize.bench.bandwidth import read_bytes_per_s, step_bytes
from anysize.bench.comparison import measure, speeds, unlike
from anysize.bench.decoding import (
    Answered,
    Work,
    by_engine,
    by_engine_in_turn,
    by_transformers,
    model_for,
    prompts,
    queues,
)
from anysize.family.family import Family, Size


def bench_mixed(
    family: Family, *, requests: int, sizes: int, prompt_tokens: int, answer_tokens: int, rounds: int
) -> dict[str, Any]:
    """Answer the same requests in four ways, in turn in every round, after one round that is not counted.

    Args:
        family: whose sizes answer.
        requests: how many, dealt out to the sizes in turn.
        sizes: how many of the ladder's, spread evenly from the smallest to the largest.
        prompt_tokens: of each prompt.
        answer_tokens: of each answer.
        rounds: counted ones.

    Returns:
        Tokens a second of the whole and of decoding alone (medians of the rounds), ratios, the limit that memory
        bandwidth sets, and how many answers differ from transformers'.
    """
    spread = spread_sizes(family, sizes)
    given = prompts(family, requests, prompt_tokens)
    work = [Work(spread[number % len(spread)].variant, ids) for number, ids in enumerate(given)]
    mean_layers = statistics.fmean(one.variant.depth(family.bank.blocks) for one in work)
    alike = min(family.ladder, key=lambda size: abs(size.layers - mean_layers))
    one_size = [Work(alike.variant, one.prompt_ids) for one in work]
    model = model_for(family, requests=requests, tokens=prompt_tokens + answer_tokens)
    ways: dict[str, Callable[[], Answered]] = {
        "mixed": lambda: by_engine(model, work, answer_tokens),
        "per_size_queues": lambda: by_engine_in_turn(model, work, answer_tokens),
        "transformers_per_size": lambda: by_transformers(family, work, answer_tokens),
        "one_size_of_mean_depth": lambda: by_engine(model, one_size, answer_tokens),
    }
    measured = measure(ways, rounds)
    device = next(family.bank.teacher.parameters()).device
    stored = prompt_tokens + answer_tokens / 2
    readable = read_bytes_per_s(device)
    limit = requests * readable / step_bytes(family, (one.variant for one in work), stored)
    report: dict[str, Any] = {
        "benchmark": "mixed",
        "requests": requests,
        "sizes": len([*queues(work)]),
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "rounds": rounds,
        "layers_mean": mean_layers,
        "layers_of_one_size": alike.layers,
        **speeds(measured),
        "memory_read_gb_per_s": readable / 1e9,
        "mixed_decode_limit_tokens_per_s": limit,
        "answers_unlike_transformers": unlike(measured["mixed"][-1], measured["transformers_per_size"][-1]),
    }
    for other in ("per_size_queues", "transformers_per_size", "one_size_of_mean_depth"):
        report[f"ratio_mixed_over_{other}"] = report["mixed_tokens_per_s"] / report[f"{other}_tokens_per_s"]
        report[f"ratio_decode_mixed_over_{other}"] = (
            report["mixed_decode_tokens_per_s"] / report[f"{other}_decode_tokens_per_s"]
        )
    report["ratio_decode_mixed_over_limit"] = report["mixed_decode_tokens_per_s"] / limit
    return report


def spread_sizes(family: Family, count: int) -> list[Size]:
    """That many sizes of the ladder (or all it has), evenly from the smallest to the largest."""
    ladder = family.ladder
    count = min(count, len(ladder))
    if count == 1:
        return [ladder[-1]]
    return [ladder[round(number * (len(ladder) - 1) / (count - 1))] for number in range(count)]
