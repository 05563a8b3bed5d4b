"""The same work done in several ways, in turn, in one run."""

import statistics
from collections.abc import Callable

from anysize.bench.decoding import Answered


def measure(ways: dict[str, Callable[[], Answered]], rounds: int) -> dict[str, list[Answered]]:
    """Do the same work in several ways, one after another in every round; the first round is not counted."""
    measured: dict[str, list[Answered]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        for name, way in ways.items():
            answered = way()
            if round_number:
                measured[name].append(answered)
    return measured


def speeds(measured: dict[str, list[Answered]]) -> dict[str, float]:
    """Medians over the rounds of tokens a second, of the whole and of decoding alone, for each way."""
    report: dict[str, float] = {}
    for name, rounds in measured.items():
        report[f"{name}_tokens_per_s"] = statistics.median(one.tokens_per_s for one in rounds)
        report[f"{name}_decode_tokens_per_s"] = statistics.median(one.decode_tokens_per_s for one in rounds)
    return report


def unlike(ours: Answered, theirs: Answered) -> int:
    """How many answers differ."""
    return sum(a != b for a, b in zip(ours.token_ids, theirs.token_ids, strict=True))
