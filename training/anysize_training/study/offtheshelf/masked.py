"""Masked language models: BERT, and DistilBERT as the BERT of fewer layers that it is."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM
from transformers import PreTrainedTokenizerBase as Tokenizer

from anysize.family.blocks import BlockMap
from anysize.family.variant import Owner, Variant
from anysize_training.study.offtheshelf.pair import Score
from anysize_training.study.offtheshelf.pseudo import PseudoEvaluator
from anysize_training.study.texts import Windows

# What DistilBERT calls the parts of a BERT. It has no token types and no pooler.
_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^distilbert\.embeddings\.", "bert.embeddings."),
        (r"^distilbert\.transformer\.layer\.", "bert.encoder.layer."),
        (r"\.attention\.q_lin\.", ".attention.self.query."),
        (r"\.attention\.k_lin\.", ".attention.self.key."),
        (r"\.attention\.v_lin\.", ".attention.self.value."),
        (r"\.attention\.out_lin\.", ".attention.output.dense."),
        (r"\.sa_layer_norm\.", ".attention.output.LayerNorm."),
        (r"\.ffn\.lin1\.", ".intermediate.dense."),
        (r"\.ffn\.lin2\.", ".output.dense."),
        (r"\.output_layer_norm\.", ".output.LayerNorm."),
        (r"^vocab_transform\.", "cls.predictions.transform.dense."),
        (r"^vocab_layer_norm\.", "cls.predictions.transform.LayerNorm."),
        (r"^vocab_projector\.", "cls.predictions.decoder."),
    )
)


def as_bert(model: DistilBertForMaskedLM) -> BertForMaskedLM:
    """The BERT that computes what a DistilBERT does, with the same tensors; its token types are zeros.

    Args:
        model: of which tensors are taken, not copied.
    """
    config = _bert_config(model.config)
    with torch.device("meta"):
        bert = BertForMaskedLM(config)
    tensors: dict[str, torch.Tensor] = {}
    for found, tensor in model.state_dict(keep_vars=True).items():
        name = found
        for pattern, replacement in _NAMES:
            name = pattern.sub(replacement, name)
        tensors[name] = tensor
    tensors["cls.predictions.bias"] = tensors["cls.predictions.decoder.bias"]
    words_VD = tensors["bert.embeddings.word_embeddings.weight"]
    types = torch.zeros(config.type_vocab_size, config.hidden_size, dtype=words_VD.dtype, device=words_VD.device)
    tensors["bert.embeddings.token_type_embeddings.weight"] = nn.Parameter(types, requires_grad=False)
    bert.load_state_dict(tensors, strict=True, assign=True)
    _fill_counters(bert, words_VD.device)
    return bert.eval().requires_grad_(False)


def assemble_masked(
    teacher: BertForMaskedLM, student: BertForMaskedLM, blocks: BlockMap, variant: Variant
) -> BertForMaskedLM:
    """The model of a variant, made of the modules of both; embedding and head are those of the outer layers' owners.

    Args:
        teacher: N layers.
        student: M layers.
        blocks: which of the teacher's each of the student's stands for.
        variant: which are patched.
    """
    models = {Owner.TEACHER: teacher, Owner.STUDENT: student}
    layers = [models[ref.owner].bert.encoder.layer[ref.layer] for ref in variant.stack(blocks)]
    return _stacked(models[variant.embedding_owner], layers, models[variant.head_owner])


@dataclass(frozen=True, slots=True, eq=False)
class MaskedPair:
    """A pair of masked language models, scored by pseudo-perplexity.

    Attributes:
        name: of student and teacher.
        teacher: N layers.
        student: M layers.
        blocks: which of the teacher's each of the student's stands for.
        tokenizer: the teacher's.
        fingerprint: of both.
        measure: `pseudo-perplexity`.
    """

    name: str
    teacher: BertForMaskedLM
    student: BertForMaskedLM
    blocks: BlockMap
    tokenizer: Tokenizer
    fingerprint: dict[str, str]
    measure: str = "pseudo-perplexity"

    def assemble(self, variant: Variant) -> BertForMaskedLM:
        """The model of a variant."""
        return assemble_masked(self.teacher, self.student, self.blocks, variant)

    def parameters(self, variant: Variant) -> int:
        """Inference parameters of a variant. The zeros that stand for DistilBERT's token types count as BERT's do."""
        model = self.assemble(variant)
        parts = (model.bert.embeddings, model.bert.encoder, model.cls)
        return sum(tensor.numel() for part in parts for tensor in part.parameters())

    def scorer(self, windows: Windows) -> Score:
        """Pseudo-perplexity on windows of a text."""
        evaluator = PseudoEvaluator(self.teacher, self.tokenizer, windows)
        return lambda variant: evaluator.quality(self.assemble(variant), variant.id)

    def pruned(self) -> "MaskedPair":
        """The teacher with its own kept layers in place of the student."""
        layers = self.teacher.bert.encoder.layer
        return replace(self, student=_stacked(self.teacher, [layers[kept] for kept in self.blocks.kept], self.teacher))


def _stacked(first: BertForMaskedLM, layers: Sequence[nn.Module], last: BertForMaskedLM) -> BertForMaskedLM:
    """The embedding of one model, some layers, and the head of another."""
    config = copy.copy(last.config)
    config.num_hidden_layers = len(layers)
    config.tie_word_embeddings = config.tie_word_embeddings and first is last
    with torch.device("meta"):
        model = BertForMaskedLM(config)
    model.bert.embeddings = first.bert.embeddings
    model.bert.encoder.layer = nn.ModuleList(layers)
    model.cls = last.cls
    return model.eval()


def _bert_config(config: DistilBertConfig) -> BertConfig:
    return BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.dim,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        intermediate_size=config.hidden_dim,
        hidden_act=config.activation,
        max_position_embeddings=config.max_position_embeddings,
        layer_norm_eps=1e-12,
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
    )


def _fill_counters(bert: BertForMaskedLM, device: torch.device) -> None:
    """Position numbers and token types, which no checkpoint holds, in place of those without storage."""
    embeddings = bert.bert.embeddings
    positions = torch.arange(bert.config.max_position_embeddings, device=device)[None]
    embeddings.register_buffer("position_ids", positions, persistent=False)
    embeddings.register_buffer("token_type_ids", torch.zeros_like(positions), persistent=False)
