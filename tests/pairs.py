"""Tiny random pairs of a teacher and a student that others might have distilled: BERT, DistilBERT, GPT2."""

from pathlib import Path
from typing import Any

import torch
from fakes import CPU, byte_tokenizer, tiny_config, tiny_model
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from anysize_training.study.offtheshelf.causal import CausalPair
from anysize_training.study.offtheshelf.load import load_pair
from anysize_training.study.offtheshelf.masked import MaskedPair

LETTERS = "abcdefghijklmnopqrstuvwxyz., "
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = len(SPECIAL) + len(LETTERS)
KEPT = (0, 2, 3)
COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "pad_token_id": 0}


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
