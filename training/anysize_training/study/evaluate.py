"""Perplexity of variants, and their KL divergence to the teacher, on a text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel

from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.variant import Variant
from anysize_training.study.texts import Windows

_CHUNK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a variant is on a text.

    Attributes:
        negative_log_likelihood: mean of a token, in nats.
        kl: mean KL(teacher || variant) of a token, in nats.
    """

    negative_log_likelihood: float
    kl: float

    @property
    def perplexity(self) -> float:
        """Exp of the mean negative log-likelihood."""
        return float(torch.tensor(self.negative_log_likelihood, dtype=torch.float64).exp())


class Evaluator:
    """Scores variants of one bank on one text; the teacher's hidden states are computed once.

    Args:
        bank: the weights.
        windows: the text.
        batch: windows run at once.
    """

    def __init__(self, bank: Bank, windows: Windows, *, batch: int = 4) -> None:
        self._bank = bank
        self._windows = windows
        self._batch = batch
        self._teacher = assemble(bank, Variant.teacher(bank.blocks.student_layers))
        self._teacher_hidden = self._hidden(self._teacher, "teacher")

    def quality(self, variant: Variant) -> Quality:
        """Score one variant."""
        if all(variant.choice):
            return self._score(self._teacher, self._teacher_hidden)
        model = assemble(self._bank, variant)
        return self._score(model, self._hidden(model, variant.id))

    def qualities(self, variants: Sequence[Variant]) -> dict[str, Quality]:
        """Score variants by id, with a progress bar."""
        with tqdm(variants, desc="evaluating", unit="size") as progress:
            return {variant.id: self.quality(variant) for variant in progress}

    @torch.inference_mode()
    def _hidden(self, model: PreTrainedModel, name: str) -> list[Tensor]:
        backbone = self._bank.architecture.backbone_of(model)
        inputs_NL = self._windows.tokens_NL[:, :-1].to(model.device)
        batches = tqdm(inputs_NL.split(self._batch), desc=name, unit="batch", leave=False)
        return [backbone(input_ids=batch_BL, use_cache=False).last_hidden_state for batch_BL in batches]

    def _score(self, model: PreTrainedModel, hidden: list[Tensor]) -> Quality:
        architecture = self._bank.architecture
        targets = self._windows.tokens_NL[:, 1:].to(model.device).split(self._batch)
        heads = architecture.head_of(model), architecture.head_of(self._teacher)
        return scored(heads[0], hidden, heads[1], self._teacher_hidden, targets)


@torch.inference_mode()
def scored(
    head: nn.Module,
    hidden: Sequence[Tensor],
    teacher_head: nn.Module,
    teacher_hidden: Sequence[Tensor],
    targets: Sequence[Tensor],
) -> Quality:
    """The quality that hidden states in front of a head have, in chunks of tokens.

    Args:
        head: makes logits of hidden states.
        hidden: pieces of the text, each (..., width).
        teacher_head: likewise.
        teacher_hidden: the same pieces.
        targets: the same pieces, (...): the tokens to be predicted.
    """
    likelihood = divergence = 0.0
    for ours, theirs, expected in zip(hidden, teacher_hidden, targets, strict=True):
        pieces = zip(
            ours.flatten(0, -2).split(_CHUNK_TOKENS),
            theirs.flatten(0, -2).split(_CHUNK_TOKENS),
            expected.flatten().split(_CHUNK_TOKENS),
            strict=True,
        )
        for ours_CD, theirs_CD, targets_C in pieces:
            ours_CV = F.log_softmax(head(ours_CD).float(), dim=-1)
            theirs_CV = F.log_softmax(teacher_head(theirs_CD).float(), dim=-1)
            likelihood += F.nll_loss(ours_CV, targets_C, reduction="sum").item()
            divergence += F.kl_div(ours_CV, theirs_CV, reduction="sum", log_target=True).item()
    tokens = sum(expected.numel() for expected in targets)
    return Quality(likelihood / tokens, divergence / tokens)
