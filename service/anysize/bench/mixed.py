"""Many sizes in one batch against one size alone, and against others who take the sizes one by one."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from anysize.bench.bandwidth import read_bytes_per_s, step_bytes
from anysize.bench.comparison import measure, speeds, unlike
from anysize.bench.contenders import Contenders, Places
from anysize.bench.decoding import Answered, Work, by_engine, model_for, prompts, queues
from anysize.engine.kernels.kernels import Kernels
from anysize.family.family import Family, Size

_ONE_SIZE = "one_size_of_mean_depth"


def bench_mixed(
    family: Family,
    *,
    requests: int,
    sizes: int,
    prompt_tokens: int,
    answer_tokens: int,
    rounds: int,
    against: Sequence[str],
    places: Places,
    kernels: Kernels | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Answer the same requests in several ways, in turn in every round, after one round that is not counted.

    Args:
        family: whose sizes answer.
        requests: how many, dealt out to the sizes in turn.
        sizes: how many of the ladder's, spread evenly from the smallest to the largest.
        prompt_tokens: of each prompt.
        answer_tokens: of each answer.
        rounds: counted ones.
        against: contenders beside one size of mean depth.
        places: where they find what they need.
        kernels: compiled ones for the engine, where it is to have them.
        say: told in one line what is being done.

    Returns:
        Tokens a second of the whole and of decoding alone (medians of the rounds), ratios, the limit that memory
        bandwidth sets, and how many answers differ from each contender's.

    Raises:
        SettingsError: something that a contender needs is missing.
        EngineError: a contender failed.
    """
    spread = spread_sizes(family, sizes)
    given = prompts(family, requests, prompt_tokens)
    work = [Work(spread[number % len(spread)].variant, ids) for number, ids in enumerate(given)]
    variants = [variant for variant, _ in queues(work)]
    mean_layers = statistics.fmean(one.variant.depth(family.bank.blocks) for one in work)
    alike = min(family.ladder, key=lambda size: abs(size.layers - mean_layers))
    one_size = [Work(alike.variant, one.prompt_ids) for one in work]
    tokens = prompt_tokens + answer_tokens
    model = model_for(family, requests=requests, tokens=tokens, kernels=kernels)
    with Contenders(family, model, kernels, places, requests=requests, tokens=tokens, say=say) as contenders:
        contenders.prepare(against, variants)
        ways: dict[str, Callable[[], Answered]] = {"mixed": lambda: by_engine(model, work, answer_tokens)}
        ways |= {name.replace("-", "_"): contenders.way(name, work, answer_tokens) for name in against}
        ways[_ONE_SIZE] = lambda: by_engine(model, one_size, answer_tokens)
        measured = measure(ways, rounds)
    stored = prompt_tokens + answer_tokens / 2
    readable = read_bytes_per_s(next(family.bank.teacher.parameters()).device)
    limit = requests * readable / step_bytes(family, (one.variant for one in work), stored)
    others = [name for name in ways if name != "mixed"]
    report: dict[str, Any] = {
        "benchmark": "mixed",
        "requests": requests,
        "sizes": len(variants),
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "rounds": rounds,
        "compiled": kernels is not None,
        "layers_mean": mean_layers,
        "layers_of_one_size": alike.layers,
        **speeds(measured),
        "memory_read_gb_per_s": readable / 1e9,
        "mixed_decode_limit_tokens_per_s": limit,
    }
    for other in others:
        if other != _ONE_SIZE:
            report[f"answers_unlike_{other}"] = unlike(measured["mixed"][-1], measured[other][-1])
    for other in others:
        for part in ("", "_decode"):
            ours, theirs = report[f"mixed{part}_tokens_per_s"], report[f"{other}{part}_tokens_per_s"]
            report[f"ratio{part}_mixed_over_{other}"] = ours / theirs
    report["ratio_decode_mixed_over_limit"] = report["mixed_decode_tokens_per_s"] / limit
    return report


def spread_sizes(family: Family, count: int) -> list[Size]:
    """That many sizes of the ladder (or all it has), evenly from the smallest to the largest."""
    ladder = family.ladder
    count = min(count, len(ladder))
    if count == 1:
        return [ladder[-1]]
    return [ladder[round(number * (len(ladder) - 1) / (count - 1))] for number in range(count)]
