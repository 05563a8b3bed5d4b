"""Off-the-shelf pairs: exactness at both ends and in between, pseudo-perplexity, and the command."""

import copy
import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import CPU, byte_tokenizer, tiny_config, tiny_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner

from anysize.errors import ArtifactError, FetchError, SettingsError
from anysize.family.variant import Variant
from anysize_training.cli import app
from anysize_training.study.offtheshelf.causal import CausalPair
from anysize_training.study.offtheshelf.load import load_pair
from anysize_training.study.offtheshelf.masked import MaskedPair, as_bert
from anysize_training.study.texts import Windows

LETTERS = "abcdefghijklmnopqrstuvwxyz., "
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = len(SPECIAL) + len(LETTERS)
KEPT = (0, 2, 3)
COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "pad_token_id": 0}
VARIANTS = [Variant(choice) for choice in product((False, True), repeat=3)]


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter, with the special tokens of BERT."""
    raw = RawTokenizer(models.WordLevel({token: at for at, token in enumerate((*SPECIAL, *LETTERS))}, "[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=raw, **dict(zip(names, SPECIAL, strict=True)))


def randomised(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def bert(layers: int = 5, seed: int = 0) -> BertForMaskedLM:
    config = BertConfig(**COMMON, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=48)
    return randomised(BertForMaskedLM(config), seed)  # pyright: ignore[reportReturnType]


def distilbert(layers: int = 3, seed: int = 1) -> DistilBertForMaskedLM:
    config = DistilBertConfig(**COMMON, dim=32, n_layers=layers, n_heads=4, hidden_dim=48)
    return randomised(DistilBertForMaskedLM(config), seed)  # pyright: ignore[reportReturnType]


def some_tokens() -> Tensor:
    return torch.randint(len(SPECIAL), VOCABULARY, (3, 17), generator=torch.Generator().manual_seed(4))


def save(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def masked_pair(tmp_path: Path) -> tuple[MaskedPair, BertForMaskedLM, DistilBertForMaskedLM]:
    teacher, student = bert(), distilbert()
    folders = [save(tmp_path / str(at), one, letter_tokenizer()) for at, one in enumerate((teacher, student))]
    pair = load_pair(folders[0], folders[1], KEPT, device=CPU, say=lambda _: None)
    assert isinstance(pair, MaskedPair)
    return pair, teacher, student


def causal_pair(tmp_path: Path) -> tuple[CausalPair, GPT2LMHeadModel, GPT2LMHeadModel]:
    teacher, student = (tiny_model(tiny_config("gpt2", layers), layers) for layers in (5, 3))
    assert isinstance(teacher, GPT2LMHeadModel)
    assert isinstance(student, GPT2LMHeadModel)
    # Fields in which the published checkpoints of GPT2 and DistilGPT2 differ without being other models.
    student.config.id2label = {0: "LABEL_0"}
    student.config.task_specific_params = {"text-generation": {"do_sample": True}}
    folders = [save(tmp_path / str(at), one, byte_tokenizer()) for at, one in enumerate((teacher, student))]
    pair = load_pair(folders[0], folders[1], KEPT, device=CPU, say=lambda _: None)
    assert isinstance(pair, CausalPair)
    return pair, teacher, student


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


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_the_command_measures_draws_and_goes_on(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, *_ = (masked_pair if kind == "masked" else causal_pair)(tmp_path)
    (tmp_path / "text.txt").write_text("not all those who wander are lost, and so on. " * 4)
    command = ["patch", str(tmp_path / "0"), str(tmp_path / "1"), "--text", str(tmp_path / "text.txt"), "--pruned"]
    command += ["--kept", "0,2,3", "--window", "16", "--max-tokens", "64", "--out", str(tmp_path / "out.json")]
    done = CliRunner().invoke(app, [*command, "--plot", str(tmp_path / "sizes.svg"), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["measure"] == ("pseudo-perplexity" if kind == "masked" else "perplexity")
    assert report["tokens"] == 64
    # Patched last to first; the block in the middle has one layer.
    assert [(size["variant"], size["layers"]) for size in report["patched"]] == [
        ("student", 3),
        ("p3", 4),
        ("teacher", 5),
    ]
    assert report["patched"][-1]["kl"] == pytest.approx(0, abs=1e-6)
    assert report["pruned"][-1]["perplexity"] == pytest.approx(report["patched"][-1]["perplexity"])
    assert report["pruned"][0]["perplexity"] != report["patched"][0]["perplexity"]
    assert "</svg>" in (tmp_path / "sizes.svg").read_text()
    monkeypatch.setattr(type(pair), "scorer", lambda *_: pytest.fail("measured again"))
    again = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(again.stdout) == report
    assert "teacher" in CliRunner().invoke(app, command).output


def test_pairs_that_are_none_are_refused(tmp_path: Path) -> None:
    teacher = save(tmp_path / "teacher", bert(), letter_tokenizer())
    student = save(tmp_path / "student", distilbert(), letter_tokenizer())
    gpt2 = save(tmp_path / "gpt2", tiny_model(tiny_config("gpt2", 3), 0), byte_tokenizer())
    headless = save(tmp_path / "headless", bert().bert, letter_tokenizer())
    other = DistilBertForMaskedLM(DistilBertConfig(**COMMON, dim=32, n_layers=3, n_heads=2, hidden_dim=48))
    wide = save(tmp_path / "wide", other, letter_tokenizer())
    code = tmp_path / "code"
    code.mkdir()
    (code / "config.json").write_text('{"model_type": "bert", "auto_map": {"AutoModel": "evil.Model"}}')

    def load(student: str, kept: tuple[int, ...] = KEPT, teacher: str = teacher) -> None:
        load_pair(teacher, student, kept, device=CPU, say=lambda _: None)

    load(student)
    with pytest.raises(SettingsError, match="the student has 3"):
        load(student, (0, 3))
    with pytest.raises(SettingsError, match="start at 1"):
        load(student, (1, 2, 3))
    with pytest.raises(ArtifactError, match="no BERT"):
        load(gpt2)
    with pytest.raises(ArtifactError, match="'distilbert' is not supported"):
        load(student, teacher=gpt2)
    with pytest.raises(ArtifactError, match="num_attention_heads 2, but the teacher 4"):
        load(wide)
    with pytest.raises(ArtifactError, match="no head for masked tokens"):
        load(headless, (0, 1, 2, 3, 4))
    with pytest.raises(ArtifactError, match="code of its own"):
        load(str(code))
    with pytest.raises(FetchError, match="no name on the hub"):
        load(str(tmp_path / "nowhere" / "at all"))
