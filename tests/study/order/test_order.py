"""Patch orders, against brute force: every subset measured by itself, every order tried."""

import json
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import ARCHITECTURES, tiny_bank, write_tiny_family
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from tqdm import tqdm
from typer.testing import CliRunner, Result

from anysize.family.assembly import assemble
from anysize.family.blocks import BlockMap
from anysize.family.manifest import read_manifest
from anysize.family.variant import Variant
from anysize_training.cli import app
from anysize_training.study.evaluate import Evaluator
from anysize_training.study.order.contender import mean_over_depths
from anysize_training.study.order.cosine import cosine_order, cosine_similarities
from anysize_training.study.order.exact import exact
from anysize_training.study.order.kl_greedy import kl_greedy
from anysize_training.study.order.scores import Scores
from anysize_training.study.patchwork import Patchwork
from anysize_training.study.quality import Quality
from anysize_training.study.texts import Windows

BLOCKS = BlockMap((0, 1, 3, 6, 7), 11)
COSTS = st.lists(st.floats(0.01, 9, allow_nan=False), min_size=32, max_size=32)


def windows() -> Windows:
    generator = torch.Generator().manual_seed(5)
    return Windows("text", "0" * 64, torch.randint(3, 250, (3, 21), generator=generator))


def table(costs: list[float]) -> dict[Variant, float]:
    found = dict(zip(map(Variant, product((False, True), repeat=5)), costs, strict=True))
    return found | {Variant.teacher(5): 0.0}


class Tabled(Patchwork):
    """Gives what a table says."""

    def __init__(self, costs: dict[Variant, float]) -> None:
        self.blocks, self.costs = BLOCKS, costs

    def run(self, hidden_NLD: Any, position: int, *, patched: bool) -> Any:
        return None

    def finish(self, variant: Variant, hidden_NLD: Any, position: int) -> Quality:
        return Quality(0.0, self.costs[variant])


def mean_of(order: tuple[int, ...], costs: dict[Variant, float]) -> float:
    """By hand: each budget of layers takes the cheapest variant of the chain that fits."""
    chain = [Variant.of(5, order[:count]) for count in range(6)]
    usable = [one for one in chain if one.depth(BLOCKS) > 5 or one == Variant.student(5)]
    means = [min(costs[one] for one in usable if one.depth(BLOCKS) <= budget) for budget in range(6, 11)]
    return sum(means) / len(means)


@given(COSTS)
def test_exact_finds_the_best_of_all_orders_and_greed_none_that_is_better(costs: list[float]) -> None:
    known = table(costs)
    best = mean_of(exact(known, BLOCKS), known)
    assert best == pytest.approx(min(mean_of(order, known) for order in permutations(range(1, 6))))
    assert best <= mean_of(kl_greedy(Scores(Tabled(known), {})), known) + 1e-9


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_common_beginning_changes_no_score_and_greed_no_choice(architecture: str) -> None:
    bank = tiny_bank(architecture, teacher_layers=7, kept=(0, 1, 3, 5), kind="delta")
    evaluator, scores = Evaluator(bank, windows()), Scores(Patchwork(bank, windows()), {})
    lengths, order = [len(block) for block in bank.blocks.blocks], []
    while len(order) < 4:
        start = Variant.of(4, order)
        found = scores.extensions(start, tqdm(disable=True))
        alone = {one: evaluator.quality(Variant.of(4, [*order, one])) for one in range(1, 5) if one not in order}
        for position, quality in alone.items():
            assert found[position].kl == pytest.approx(quality.kl, rel=1e-3, abs=1e-5)
            assert found[position].perplexity == pytest.approx(quality.perplexity, rel=1e-4)
        now = evaluator.quality(start).kl
        gains = {one: now - quality.kl for one, quality in alone.items()}
        free = {one: gain for one, gain in gains.items() if lengths[one - 1] == 1 and gain > 0}
        steps = {one: gain / (lengths[one - 1] - 1) for one, gain in gains.items() if lengths[one - 1] > 1}
        choices = free or steps or gains
        order.append(max(choices, key=lambda one: choices[one]))
    assert kl_greedy(Scores(Patchwork(bank, windows()), {})) == tuple(order)


def test_every_subset_is_measured_as_it_is_by_itself() -> None:
    bank = tiny_bank("llama", teacher_layers=7, kept=(0, 1, 3, 5))
    evaluator = Evaluator(bank, windows())
    everything = Scores(Patchwork(bank, windows()), {}).everything()
    assert len(everything) == 16
    for variant, quality in everything.items():
        assert quality.kl == pytest.approx(evaluator.quality(variant).kl, rel=1e-3, abs=1e-5)


def test_similarities_are_those_of_transformers_hidden_states() -> None:
    bank = tiny_bank("qwen3", teacher_layers=7, kept=(0, 1, 3, 5))
    inputs_NL = windows().tokens_NL[:, :-1]
    with torch.no_grad():
        ours, theirs = (
            assemble(bank, one)(inputs_NL, output_hidden_states=True).hidden_states
            for one in (Variant.student(4), Variant.teacher(4))
        )
    found = cosine_similarities(Patchwork(bank, windows()))
    # transformers' last hidden state stands behind the final norm, so the last position is left out.
    for position, last_layer in enumerate((1, 3, 5)):
        by_hand = F.cosine_similarity(ours[position + 1], theirs[last_layer], dim=-1).mean().item()
        assert found[position] == pytest.approx(by_hand, abs=1e-5)


def test_cosine_orders_sort_by_similarity() -> None:
    assert cosine_order((0.9, 0.2, 0.5), low_first=True) == (2, 3, 1)
    assert cosine_order((0.9, 0.2, 0.5), low_first=False) == (1, 3, 2)


def test_a_budget_gets_the_largest_size_that_is_not_deeper() -> None:
    assert mean_over_depths({5: 8.0, 7: 4.0, 11: 0.0}, BLOCKS) == pytest.approx((8 + 4 + 4 + 4 + 4) / 5)


def test_a_search_is_taken_up_where_it_stood(tmp_path: Path) -> None:
    known, path = table([float(one) for one in range(32, 0, -1)]), tmp_path / "scores.json"
    order = kl_greedy(Scores(Tabled(known), {"text": "a"}, path))
    # Nothing is left to be measured.
    assert kl_greedy(Scores(Tabled({}), {"text": "a"}, path)) == order


def order(folder: Path, *arguments: str) -> Result:
    command = ["order", str(folder), "--tokens", "96", "--window", "32", *arguments]
    return CliRunner().invoke(app, command, env={"COLUMNS": "100", "NO_COLOR": "1"})


def test_the_command_compares_draws_and_writes(tmp_path: Path) -> None:
    write_tiny_family(tmp_path / "family", teacher_layers=9, kept=(0, 1, 3, 6))
    text = tmp_path / "text.txt"
    text.write_text("the sea is wide and the sky is high; " * 9)
    out, plot = tmp_path / "order.json", tmp_path / "order.png"
    extra = ("--evaluate-text", str(text), "--evaluate-tokens", "64", "--evaluate-window", "32", "--method", "exact")
    done = order(
        tmp_path / "family", "--text", str(text), "--compare", "--out", str(out), "--plot", str(plot), "--write", *extra
    )
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert plot.read_bytes().startswith(b"\x89PNG")
    means = {one["method"]: one["means"]["calibration"]["depths_kl"] for one in report["orders"]}
    assert set(means) == {
        *("kl_greedy", "exact", "cosine_low_first", "cosine_high_first", "last_to_first", "first_to_last"),
        *("subsets", "present"),
    }
    assert means["subsets"] <= means["exact"] + 1e-9
    assert all(means["exact"] <= mean + 1e-9 for name, mean in means.items() if name not in ("subsets", "present"))
    chosen = next(one for one in report["orders"] if one["method"] == report["best"])
    written = read_manifest(tmp_path / "family")
    assert written.ladder == tuple(size["variant"] for size in chosen["ladder"])
    if chosen["order"]:
        assert written.patch_order == tuple(chosen["order"])

    text.write_text("other words " * 40)
    refused = order(tmp_path / "family", "--text", str(text), "--out", str(out))
    assert refused.exit_code == 2
    assert "order.scores.json" in refused.output


def test_exact_refuses_many_positions(tmp_path: Path) -> None:
    write_tiny_family(tmp_path / "family", teacher_layers=15, kept=tuple(range(13)))
    refused = order(tmp_path / "family", "--text", __file__, "--method", "exact")
    assert refused.exit_code == 2
    assert "kl_greedy" in refused.output
