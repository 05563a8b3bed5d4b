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


def bench_budgets(desk: Desk, *, requests: int, seed: int, on_progress: Callable[[float], object]) -> dict[str, Any]:
    """Ask for random latency budgets, one after another, and look each time for the largest size that keeps them.

    A machine is faster at one time than at another, so each budget is drawn and judged by runs right beside it: it lies
    evenly between what the smallest and the largest size take just before, and just after it an oracle tries sizes in
    between, halving the ladder, until it knows the largest that keeps it.

    Args:
        desk: with an engine that does nothing else and keeps nothing of prompts.
        requests: how many budgets.
        seed: of the budgets.
        on_progress: told which share is done.

    Returns:
        Which share of the budgets was kept, of all and of each kind, and `ratio_size_over_oracle`, of mean parameters.
        A budget is feasible if the smallest size took less than the largest.
    """
    chance = random.Random(seed)  # noqa: S311  (no secret)
    chosen: list[Size] = []
    oracle: list[Size] = []
    kept: dict[Kind, list[bool]] = {kind: [] for kind in _KINDS}
    for number in range(requests):
        shape, kind = chance.choice(_SHAPES), chance.choice(_KINDS)
        least_ms, most_ms = (_run_ms(desk, shape, kind, size) for size in (desk.family.ladder[0], desk.family.teacher))
        share = chance.random()
        if least_ms < most_ms:
            bound_ms = least_ms + share * (most_ms - least_ms)
            budget = replace(Budget(), **{f"{kind}_ms": bound_ms})
            answer = desk.budgeted(_prompt(desk, shape), shape.answer_tokens, budget).result()
            chosen.append(answer.size)
            kept[kind].append(_ms(answer, kind) <= bound_ms)
            oracle.append(_largest(desk, shape, kind, bound_ms))
        on_progress((number + 1) / requests)
    if not oracle:
        raise ValueError("no budget was feasible; ask for more --requests")
    means = [statistics.fmean(size.footprint.parameters for size in sizes) for sizes in (chosen, oracle)]
    return {
        "benchmark": "budgets",
        "requests": requests,
        "seed": seed,
        "feasible": len(oracle),
        "kept": sum(map(sum, kept.values())),
        "ratio_kept_over_feasible": sum(map(sum, kept.values())) / len(oracle),
        **{f"ratio_{kind}_kept": statistics.fmean(each) for kind, each in kept.items() if each},
        "mean_parameters": means[0],
        "oracle_mean_parameters": means[1],
        "ratio_size_over_oracle": means[0] / means[1],
    }


def _largest(desk: Desk, shape: Shape, kind: Kind, bound_ms: float) -> Size:
    """The largest size that keeps a bound which the smallest keeps and the largest of all does not."""
    keeps, fails = 0, len(desk.family.ladder) - 1
    while fails - keeps > 1:
        middle = (keeps + fails) // 2
        if _run_ms(desk, shape, kind, desk.family.ladder[middle]) <= bound_ms:
            keeps = middle
        else:
            fails = middle
    return desk.family.ladder[keeps]


def _run_ms(desk: Desk, shape: Shape, kind: Kind, size: Size) -> float:
    return _ms(desk.fixed(_prompt(desk, shape), shape.answer_tokens, size).result(), kind)


def _prompt(desk: Desk, shape: Shape) -> list[int]:
    return prompts(desk.family, 1, shape.prompt_tokens)[0]


def _ms(completion: Completion, kind: Kind) -> float:
    timing = completion.timing
    if kind == "tpot":
        return timing.tpot_ms if timing.tpot_ms is not None else timing.ttft_ms
    return timing.ttft_ms if kind == "ttft" else timing.total_ms
