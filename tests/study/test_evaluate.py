"""Perplexity, divergence and ladders, against plain references."""

import math
import re
from itertools import product
from pathlib import Path

import pytest
import torch
from fakes import ARCHITECTURES, Kind, byte_tokenizer, tiny_bank
from torch.nn import functional as F

from anysize.errors import SettingsError
from anysize.family.assembly import assemble
from anysize.family.variant import Variant
from anysize_training.study.evaluate import Evaluator
from anysize_training.study.ladder import LadderSearch, falling
from anysize_training.study.texts import Windows, detokenise_wikitext, read_windows


def windows(count: int = 5, length: int = 20) -> Windows:
    generator = torch.Generator().manual_seed(5)
    return Windows("text", "0" * 64, torch.randint(3, 250, (count, length + 1), generator=generator))


def plain_quality(bank, variant: Variant, text: Windows) -> tuple[float, float]:
    """Cross entropy with transformers' own loss, and KL from the definition, one window at a time."""
    model, teacher = assemble(bank, variant), assemble(bank, Variant.teacher(len(variant.choice)))
    losses, divergences = [], []
    with torch.no_grad():
        for window in text.tokens_NL:
            losses.append(model(window[None], labels=window[None]).loss.item())
            ours = model(window[None, :-1]).logits.double().log_softmax(-1)
            theirs = teacher(window[None, :-1]).logits.double().log_softmax(-1)
            divergences.append((theirs.exp() * (theirs - ours)).sum(-1).mean().item())
    return sum(losses) / len(losses), sum(divergences) / len(divergences)


@pytest.mark.parametrize("kind", ["full", "delta"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_quality_equals_plain_transformers(architecture: str, kind: Kind) -> None:
    bank, text = tiny_bank(architecture, kind=kind), windows()
    evaluator = Evaluator(bank, text, batch=2)
    for choice in product((False, True), repeat=3):
        quality = evaluator.quality(Variant(choice))
        loss, kl = plain_quality(bank, Variant(choice), text)
        assert quality.negative_log_likelihood == pytest.approx(loss, rel=1e-5)
        assert quality.kl == pytest.approx(kl, rel=1e-3, abs=1e-5)
        assert quality.perplexity == pytest.approx(math.exp(loss), rel=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_search_finds_what_trying_every_variant_finds(architecture: str) -> None:
    # Every block has more than one layer, so the search is exhaustive.
    bank, text = tiny_bank(architecture, teacher_layers=7, kept=(0, 2, 5), kind="delta"), windows(2)
    best = LadderSearch(bank, text).best()
    everything = [Variant(choice) for choice in product((False, True), repeat=3)]
    evaluator = Evaluator(bank, text)
    for depth, scored in best.items():
        rivals = {v: evaluator.quality(v).kl for v in everything if v.depth(bank.blocks) == depth}
        assert scored.kl == pytest.approx(min(rivals.values()), rel=1e-3, abs=1e-5)
        assert rivals[scored.variant] == pytest.approx(scored.kl, rel=1e-3, abs=1e-5)
    assert sorted(best) == sorted({variant.depth(bank.blocks) for variant in everything})


def test_single_layer_blocks_are_decided_for_the_best_subset_of_each_size() -> None:
    bank, text = tiny_bank("llama", teacher_layers=7, kept=(0, 1, 3, 6), kind="delta"), windows(2)
    best = LadderSearch(bank, text).best()
    evaluator = Evaluator(bank, text)
    assert best[4].variant == Variant.student(4)
    assert best[7].variant == Variant.teacher(4)
    for depth in (5, 6):
        # Positions 2 and 3 are the blocks of two and three layers; 1 and 4 are single layers.
        inner = (True, False) if depth == 5 else (False, True)
        rivals = {
            Variant((first, *inner, last)): evaluator.quality(Variant((first, *inner, last))).kl
            for first, last in product((False, True), repeat=2)
        }
        assert rivals[best[depth].variant] == pytest.approx(min(rivals.values()), rel=1e-3, abs=1e-5)


def test_a_ladder_keeps_only_sizes_that_are_better_than_every_smaller_one() -> None:
    bank = tiny_bank("llama", teacher_layers=7, kept=(0, 2, 5), kind="delta")
    best = LadderSearch(bank, windows(2)).best()
    rungs = falling(best)
    assert [rung.kl for rung in rungs] == sorted((rung.kl for rung in rungs), reverse=True)
    assert rungs[-1].variant == Variant.teacher(3)
    assert abs(rungs[-1].kl) < 1e-5


def test_too_many_positions_for_an_exhaustive_search_are_refused() -> None:
    bank = tiny_bank("llama", teacher_layers=32, kept=tuple(range(0, 32, 2)), kind="delta")
    with pytest.raises(SettingsError, match="subsets"):
        LadderSearch(bank, windows(1))


def test_windows_overlap_by_one_token_and_cover_the_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abcdefghijklmnopqrstuvwxyz" * 4)
    text = read_windows(path, byte_tokenizer(), length=10, max_tokens=50)
    assert text.tokens_NL.shape == (5, 11)
    assert torch.equal(text.tokens_NL[1:, 0], text.tokens_NL[:-1, -1])
    assert text.scored == 50
    with pytest.raises(SettingsError, match="less than one window"):
        read_windows(path, byte_tokenizer(), length=500, max_tokens=500)


def test_wikitext_is_put_back_into_plain_text() -> None:
    raw = ' = Robert Boulter = \n \n He said , " yes ( no ) " , in 2000 @-@ 2001 for 1 @,@ 500 @.@ 5 dollars . \n'
    expected = '= Robert Boulter =\nHe said, "yes (no)", in 2000-2001 for 1,500.5 dollars.\n'
    assert re.sub(r"\n+", "\n", detokenise_wikitext(raw)).lstrip() == expected


def test_cross_entropy_reference_is_shifted_as_ours() -> None:
    bank, text = tiny_bank("llama"), windows(1)
    model = assemble(bank, Variant.student(3))
    window = text.tokens_NL
    with torch.no_grad():
        logits = model(window[:, :-1]).logits
    by_hand = F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten()).item()
    assert Evaluator(bank, text).quality(Variant.student(3)).negative_log_likelihood == pytest.approx(by_hand, rel=1e-6)
