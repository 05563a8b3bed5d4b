"""Latency budgets against an oracle: how many are kept, and how much of the size that could have kept them is used."""

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from anysize.bench.decoding import prompts
from anysize.bench.desk import Desk
from anysize.engine.request import Completion
from anysize.family.family import Size
from anysize.sizing.budget import Budget

Kind = Literal["ttft", "tpot", "total"]

_KINDS: tuple[Kind, ...] = ("ttft", "tpot", "total")


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of request: tokens of its prompt and of its answer."""

    prompt_tokens: int
    answer_tokens: int


_SHAPES = (Shape(16, 12), Shape(64, 24), Shape(192, 12))


def bench_budgets(
    desk: Desk, *, requests: int, rounds: int, seed: int, on_progress: Callable[[float], object]
) -> dict[str, Any]:
    """Ask for random latency budgets, one after another, beside runs of every size on the same kinds of requests.

    The bounds of a kind of request lie evenly between what its smallest and its largest size take. What each size takes
    is the median of several rounds, spread over the time in which the budgets are asked for. The oracle is the largest
    size whose median is inside a bound; a budget is feasible if there is one.

    Args:
        desk: with an engine that does nothing else and keeps nothing of prompts.
        requests: how many budgets.
        rounds: runs of every size on every kind of request.
        seed: of the budgets.
        on_progress: told which share is done.

    Returns:
        Which share of the feasible budgets was kept, of all and of each kind, and `ratio_size_over_oracle`, of mean
        parameters.
    """
    chance = random.Random(seed)  # noqa: S311  (no secret)
    taken: dict[tuple[Shape, str], list[Completion]] = {}
    _run_all(desk, taken, number=0)
    asked: list[tuple[Shape, Kind, float, Completion]] = []
    for number in range(requests):
        if number and number % max(1, requests // (rounds - 1)) == 0:
            _run_all(desk, taken, number)
        shape, kind = chance.choice(_SHAPES), chance.choice(_KINDS)
        ladder = desk.family.ladder
        ends = [_ms(taken[shape, size.id][0], kind) for size in (ladder[0], ladder[-1])]
        bound_ms = chance.uniform(min(ends), max(ends))
        budget = replace(Budget(), **{f"{kind}_ms": bound_ms})
        answer = desk.budgeted(_prompt(desk, shape), shape.answer_tokens, budget).result()
        asked.append((shape, kind, bound_ms, answer))
        on_progress((number + 1) / requests)
    chosen: list[Size] = []
    oracle: list[Size] = []
    kept: dict[Kind, list[bool]] = {kind: [] for kind in _KINDS}
    for shape, kind, bound_ms, answer in asked:
        able = [size for size in desk.family.ladder if _median_ms(taken[shape, size.id], kind) <= bound_ms]
        if able:
            oracle.append(able[-1])
            chosen.append(answer.size)
            kept[kind].append(_ms(answer, kind) <= bound_ms)
    if not oracle:
        raise ValueError("no budget was feasible; ask for more --requests")
    means = [statistics.fmean(size.footprint.parameters for size in sizes) for sizes in (chosen, oracle)]
    return {
        "benchmark": "budgets",
        "requests": requests,
        "rounds": rounds,
        "seed": seed,
        "feasible": len(oracle),
        "kept": sum(map(sum, kept.values())),
        "ratio_kept_over_feasible": sum(map(sum, kept.values())) / len(oracle),
        **{f"ratio_{kind}_kept": statistics.fmean(each) for kind, each in kept.items() if each},
        "mean_parameters": means[0],
        "oracle_mean_parameters": means[1],
        "ratio_size_over_oracle": means[0] / means[1],
    }


def _run_all(desk: Desk, taken: dict[tuple[Shape, str], list[Completion]], number: int) -> None:
    """One more run of every size on every kind of request, in random order."""
    work = [(shape, size) for shape in _SHAPES for size in desk.family.ladder]
    random.Random(number).shuffle(work)  # noqa: S311  (no secret)
    for shape, size in work:
        completion = desk.fixed(_prompt(desk, shape), shape.answer_tokens, size).result()
        taken.setdefault((shape, size.id), []).append(completion)


def _prompt(desk: Desk, shape: Shape) -> list[int]:
    return prompts(desk.family, 1, shape.prompt_tokens)[0]


def _median_ms(completions: list[Completion], kind: Kind) -> float:
    return statistics.median(_ms(one, kind) for one in completions)


def _ms(completion: Completion, kind: Kind) -> float:
    timing = completion.timing
    if kind == "tpot":
        return timing.tpot_ms if timing.tpot_ms is not None else timing.ttft_ms
    return timing.ttft_ms if kind == "ttft" else timing.total_ms
