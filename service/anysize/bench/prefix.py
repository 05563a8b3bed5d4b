"""Time to first token of a prompt that another size, or the same, has run before."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from anysize.bench.bandwidth import read_bytes_per_s
from anysize.bench.decoding import prompts
from anysize.engine.kernels.kernels import Kernels
from anysize.engine.memory import token_bytes
from anysize.engine.model import Model, Row
from anysize.engine.prefix import forks
from anysize.family.family import Family, Size

# What of a prompt the service runs in one step where nobody says.
_CHUNK_TOKENS = 128
# Below this share what is saved is lost in the noise of a busy machine.
_LEAST_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sizes, one after the other on the same prompt.

    Attributes:
        first: runs the prompt.
        second: is measured.
        shared_share: of the second size's layers, those below the first position at which the two differ.
    """

    first: Size
    second: Size
    shared_share: float


@dataclass(frozen=True, slots=True)
class Answered:
    """One prompt and a short answer.

    Attributes:
        ttft_s: from asking for pages to the first token.
        decode_s: from there to the last.
        token_ids: of the answer.
    """

    ttft_s: float
    decode_s: float
    token_ids: list[int]


def bench_prefix(
    family: Family, *, pairs: int, prompt_tokens: int, answer_tokens: int, rounds: int, kernels: Kernels | None = None
) -> dict[str, Any]:
    """Run prompts cold, after another size and after the same size, in turn in every round.

    Args:
        family: whose sizes answer.
        pairs: how many pairs of sizes, evenly from those that share most to those that share a quarter.
        prompt_tokens: of each prompt.
        answer_tokens: of each answer.
        rounds: counted ones, after one that is not.
        kernels: compiled ones for the model, where it is to have them.

    Returns:
        For each pair medians of the times to first token, and by how much they fall over the share of layers that is
        shared; over all pairs the least and the median of that; what decoding costs after a hit.
    """
    chosen = spread_pairs(family, pairs)
    model = Model(
        family.bank,
        kv_bytes=8 * (prompt_tokens + answer_tokens + 64) * token_bytes(family.bank),
        shared_by=[size.variant for size in family.ladder],
        kernels=kernels,
    )
    unlike = 0
    fresh = _fresh_prompts(family, prompt_tokens)
    report: dict[str, Any] = {
        "benchmark": "prefix",
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "rounds": rounds,
        "memory_read_gb_per_s": read_bytes_per_s(next(family.bank.teacher.parameters()).device) / 1e9,
    }
    over_share: list[float] = []
    again_ratios: list[float] = []
    decode_ratios: list[float] = []
    measured: dict[Pair, list[tuple[Answered, Answered, Answered]]] = {pair: [] for pair in chosen}
    for round_number in range(rounds + 1):
        for pair in chosen:
            prompt_ids = next(fresh)
            cold = _answer(model, pair.second, prompt_ids, answer_tokens, is_known=False)
            _answer(model, pair.first, prompt_ids, 1)
            warm = _answer(model, pair.second, prompt_ids, answer_tokens)
            again = _answer(model, pair.second, prompt_ids, answer_tokens)
            unlike += len({tuple(one.token_ids) for one in (cold, warm, again)}) - 1
            if round_number:
                measured[pair].append((cold, warm, again))
    for pair, answers in measured.items():
        cold_s, warm_s, again_s = (statistics.median(one.ttft_s for one in way) for way in zip(*answers, strict=True))
        decode_s = [statistics.median(one.decode_s for one in way) for way in zip(*answers, strict=True)]
        name = f"{pair.first.id}_then_{pair.second.id}"
        saved = 1 - warm_s / cold_s
        report |= {
            f"{name}_cold_ttft_ms": 1e3 * cold_s,
            f"{name}_ttft_ms": 1e3 * warm_s,
            f"{name}_same_size_again_ttft_ms": 1e3 * again_s,
            f"ratio_{name}_shared_share": pair.shared_share,
            f"ratio_{name}_saved": saved,
        }
        over_share.append(saved / pair.shared_share)
        again_ratios.append(again_s / cold_s)
        decode_ratios.append(decode_s[2] / decode_s[0])
    report |= {
        "answers_unlike_cold_ones": unlike,
        "ratio_saved_over_shared_share": statistics.median(over_share),
        "ratio_saved_over_shared_share_least": min(over_share),
        "ratio_same_size_again_over_cold": statistics.median(again_ratios),
        "ratio_decode_time_after_hit_over_cold": statistics.median(decode_ratios),
    }
    return report


def spread_pairs(family: Family, count: int) -> list[Pair]:
    """Pairs of served sizes, evenly from those that share most to those that share least of what counts."""
    sharing = [
        Pair(first, second, share)
        for first, second in permutations(family.ladder, 2)
        if (share := shared_share(family, first, second)) >= _LEAST_SHARE
    ]
    sharing.sort(key=lambda pair: -pair.shared_share)
    count = min(count, len(sharing))
    if count <= 1:
        return sharing[:count]
    return [sharing[round(number * (len(sharing) - 1) / (count - 1))] for number in range(count)]


def shared_share(family: Family, first: Size, second: Size) -> float:
    """The share of the second size's layers below the first position at which the two differ."""
    fork = next(iter(forks(second.variant, [first.variant])), 0)
    layers = sum(
        len(block) if is_patched else 1
        for is_patched, block in zip(second.variant.choice[:fork], family.bank.blocks.blocks, strict=False)
    )
    return layers / second.layers


def _fresh_prompts(family: Family, tokens: int) -> Iterator[list[int]]:
    """Prompts of which no two begin alike."""
    (passage,) = prompts(family, 1, tokens)
    for number in range(len(family.tokenizer)):
        yield [number, *passage[1:]]


def _answer(
    model: Model, size: Size, prompt_ids: Sequence[int], answer_tokens: int, *, is_known: bool = True
) -> Answered:
    started_s = time.perf_counter()
    sequence = model.reserve(size.variant, len(prompt_ids) + answer_tokens, prompt_ids if is_known else ())
    assert sequence is not None, "the benchmark's pool is too small"
    token_ids: list[int] = []
    while not token_ids:
        start = sequence.length
        border = sequence.border if start < sequence.border else len(prompt_ids)
        stop = min(start + _CHUNK_TOKENS, border)
        is_last = stop == len(prompt_ids)
        logits_RV = model.step([Row(sequence, prompt_ids[start:stop], wants_logits=is_last)])
        if is_last:
            token_ids = [int(logits_RV.argmax())]
    first_s = time.perf_counter()
    for _ in range(answer_tokens - 1):
        token_ids.append(int(model.step([Row(sequence, token_ids[-1:], wants_logits=True)]).argmax()))
    done_s = time.perf_counter()
    model.release(sequence)
    return Answered(first_s - started_s, done_s - first_s, token_ids)
