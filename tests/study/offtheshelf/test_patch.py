"""Off-the-shelf pairs: exactness at both ends and in between, and pseudo-perplexity."""

import copy
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from fakes import CPU
from pairs import KEPT, bert, causal_pair, distilbert, letter_tokenizer, masked_pair, randomised, save, some_tokens
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertForMaskedLM, BertForPreTraining, DistilBertForMaskedLM

from anysize.family.variant import Variant
from anysize_training.study.offtheshelf.load import load_pair
from anysize_training.study.offtheshelf.masked import MaskedPair, as_bert
from anysize_training.study.texts import Windows

VARIANTS = [Variant(choice) for choice in product((False, True), repeat=3)]


class ByHand(nn.Module):
    """Each model's own parts, called one after the other in their own forms."""

    def __init__(self, teacher: BertForMaskedLM, student: DistilBertForMaskedLM, variant: Variant) -> None:
        super().__init__()
        self.teacher, self.student, self.variant = teacher, student, variant

    @torch.no_grad()
    def forward(self, tokens_BL: Tensor) -> Tensor:
        choice, teacher, student = self.variant.choice, self.teacher, self.student
        owner = teacher.bert if choice[0] else student.distilbert
        hidden_BLD = owner.embeddings(tokens_BL)
        blocks = ((0, 1), (2,), (3, 4))
        for position, is_patched in enumerate(choice):
            layers = teacher.bert.encoder.layer if is_patched else student.distilbert.transformer.layer
            for layer in blocks[position] if is_patched else (position,):
                hidden_BLD = layers[layer](hidden_BLD, None)
        if choice[-1]:
            return teacher.cls(hidden_BLD)
        inner = nn.functional.gelu(student.vocab_transform(hidden_BLD))
        return student.vocab_projector(student.vocab_layer_norm(inner))


def test_distilbert_is_a_bert_bit_for_bit() -> None:
    student, tokens = distilbert(), some_tokens()
    with torch.no_grad():
        assert torch.equal(as_bert(student)(tokens).logits, student(tokens).logits)


def test_checkpoints_as_bert_was_published_load_too(tmp_path: Path) -> None:
    # With a pooler, a head for pairs of sentences, and names of before 2019.
    whole = BertForPreTraining(bert().config)
    randomised(whole, 3)
    teacher, student = save(tmp_path / "teacher", whole, letter_tokenizer()), tmp_path / "student"
    file = tmp_path / "teacher" / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(file).items()
    }
    assert any("seq_relationship" in name for name in old)
    assert any("pooler" in name for name in old)
    save_file(old, file, metadata={"format": "pt"})
    save(student, distilbert(), letter_tokenizer())
    pair = load_pair(teacher, str(student), KEPT, device=CPU, say=lambda _: None)
    assert isinstance(pair, MaskedPair)
    with torch.no_grad():
        found = pair.assemble(Variant.teacher(3))(some_tokens()).logits
        assert torch.equal(found, whole(some_tokens()).prediction_logits)


def test_masked_variants_equal_student_teacher_and_what_is_put_together_by_hand(tmp_path: Path) -> None:
    pair, teacher, student = masked_pair(tmp_path)
    tokens, seen = some_tokens(), set()
    assert [list(block) for block in pair.blocks.blocks] == [[0, 1], [2], [3, 4]]
    with torch.no_grad():
        assert torch.equal(pair.assemble(Variant.student(3))(tokens).logits, student(tokens).logits)
        assert torch.equal(pair.assemble(Variant.teacher(3))(tokens).logits, teacher(tokens).logits)
        for variant in VARIANTS:
            found = pair.assemble(variant)(tokens).logits
            torch.testing.assert_close(found, ByHand(teacher, student, variant)(tokens), rtol=1e-5, atol=1e-5)
            seen.add(found.sum().item())
            pair.assemble(variant).tie_weights()
            assert torch.equal(pair.assemble(variant)(tokens).logits, found)
    assert len(seen) == len(VARIANTS)


def test_causal_variants_equal_student_teacher_and_what_is_put_together_by_hand(tmp_path: Path) -> None:
    pair, teacher, student = causal_pair(tmp_path)
    tokens = torch.randint(3, 250, (2, 9))
    windows = Windows("text", "0" * 64, torch.cat([tokens, tokens[:, :1]], 1))
    score, blocks = pair.scorer(windows), ((0, 1), (2,), (3, 4))
    for variant in VARIANTS:
        choice, model = variant.choice, copy.deepcopy(teacher)
        layers = [
            layer
            for at, is_patched in enumerate(choice)
            for layer in ([teacher.transformer.h[k] for k in blocks[at]] if is_patched else [student.transformer.h[at]])
        ]
        model.transformer.h = nn.ModuleList(layers)
        first, last = (teacher if choice[0] else student), (teacher if choice[-1] else student)
        model.transformer.wte, model.transformer.wpe = first.transformer.wte, first.transformer.wpe
        model.transformer.ln_f, model.lm_head = last.transformer.ln_f, last.lm_head
        with torch.no_grad():
            hand = model(windows.tokens_NL[:, :-1], use_cache=False).logits
            loss = nn.functional.cross_entropy(hand.flatten(0, 1), windows.tokens_NL[:, 1:].flatten()).item()
        assert score(variant).negative_log_likelihood == pytest.approx(loss, rel=1e-5)


def test_pseudo_perplexity_masks_one_token_at_a_time(tmp_path: Path) -> None:
    pair, teacher, student = masked_pair(tmp_path)
    windows = Windows("text", "0" * 64, some_tokens())
    score, cls, sep, mask = pair.scorer(windows), 2, 3, 4
    for variant in (Variant.student(3), Variant((True, False, False)), Variant.teacher(3)):
        model, losses, divergences = ByHand(teacher, student, variant), [], []
        for window in windows.tokens_NL[:, :-1].tolist():
            for at, token in enumerate(window):
                seen = torch.tensor([[cls, *window[:at], mask, *window[at + 1 :], sep]])
                ours = model(seen)[0, at + 1].double().log_softmax(-1)
                theirs = ByHand(teacher, student, Variant.teacher(3))(seen)[0, at + 1].double().log_softmax(-1)
                losses.append(-ours[token].item())
                divergences.append((theirs.exp() * (theirs - ours)).sum().item())
        found = score(variant)
        assert found.perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
        assert found.kl == pytest.approx(sum(divergences) / len(divergences), rel=1e-3, abs=1e-5)
        assert len(losses) == windows.scored


def test_pruning_leaves_out_the_teachers_own_layers(tmp_path: Path) -> None:
    pair, teacher, _ = masked_pair(tmp_path)
    tokens, pruned = some_tokens(), pair.pruned()
    with torch.no_grad():
        by_hand = copy.deepcopy(teacher)
        by_hand.bert.encoder.layer = nn.ModuleList([by_hand.bert.encoder.layer[layer] for layer in (0, 2, 3, 4)])
        assert torch.equal(pruned.assemble(Variant((False, False, True)))(tokens).logits, by_hand(tokens).logits)
        assert torch.equal(pruned.assemble(Variant.teacher(3))(tokens).logits, teacher(tokens).logits)
    causal, teacher, _ = causal_pair(tmp_path / "causal")
    windows = Windows("text", "0" * 64, torch.randint(3, 250, (2, 9)))
    by_hand = copy.deepcopy(teacher)
    by_hand.transformer.h = nn.ModuleList([by_hand.transformer.h[layer] for layer in KEPT])
    with torch.no_grad():
        logits = by_hand(windows.tokens_NL[:, :-1], use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), windows.tokens_NL[:, 1:].flatten()).item()
    found = causal.pruned().scorer(windows)(Variant.student(3))
    assert found.negative_log_likelihood == pytest.approx(loss, rel=1e-5)
