"""Perplexity of whole documents in rolling windows, as lm-evaluation-harness computes it for `loglikelihood_rolling`.

Every token of a document is scored once. A document longer than the context is cut into windows; the first target of
each is predicted from the last token of the window before, and the last window, which has fewer targets, is filled up
with what comes before them. The first token of a document is predicted from the tokenizer's beginning-of-sequence
token, or its end-of-sequence token where there is no other.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from anysize.errors import SettingsError
from anysize.family.architectures import Architecture
from anysize_training.study.pages import Pages

_CHUNK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class RollingQuality:
    """How likely a model finds documents.

    Attributes:
        negative_log_likelihood: of all documents, in nats.
        tokens: scored.
        words: of the original documents.
        utf8_bytes: of the original documents.
    """

    negative_log_likelihood: float
    tokens: int
    words: int
    utf8_bytes: int

    @property
    def word_perplexity(self) -> float:
        """Exp of the negative log-likelihood for each word."""
        return math.exp(self.negative_log_likelihood / self.words)

    @property
    def byte_perplexity(self) -> float:
        """Exp of the negative log-likelihood for each byte."""
        return math.exp(self.negative_log_likelihood / self.utf8_bytes)

    @property
    def bits_per_byte(self) -> float:
        """The negative log-likelihood for each byte, in bits."""
        return self.negative_log_likelihood / self.utf8_bytes / math.log(2)

    @property
    def token_perplexity(self) -> float:
        """Exp of the negative log-likelihood for each token."""
        return math.exp(self.negative_log_likelihood / self.tokens)


@dataclass(frozen=True, slots=True)
class Rolled:
    """Documents cut into windows.

    Attributes:
        pages: the documents.
        context: tokens in the longest window.
        windows: of each: its input ids, and as many targets, or fewer where the first inputs are context alone.
    """

    pages: Pages
    context: int
    windows: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    @classmethod
    def of(cls, pages: Pages, tokenizer: Tokenizer, context: int) -> "Rolled":
        """Tokenise and cut.

        Args:
            pages: the documents.
            tokenizer: its usual special tokens are added to each document, and scored as others are.
            context: the longest window.

        Raises:
            SettingsError: the tokenizer has neither a beginning nor an end token.
        """
        prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if not isinstance(prefix, int):
            raise SettingsError("the tokenizer has no token that begins or ends a document, so words cannot be scored")
        windows: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        begins_with = str(tokenizer.decode(prefix))
        for page in tqdm(pages.pages, desc="tokenising", unit="page", leave=False):
            special = not page.text.startswith(begins_with)
            ids = tokenizer(page.text, add_special_tokens=special, verbose=False).input_ids
            windows += rolling_windows(ids, prefix, context)
        return cls(pages, context, tuple(windows))

    @property
    def tokens(self) -> int:
        """How many are scored."""
        return sum(len(targets) for _, targets in self.windows)


def rolling_windows(ids: Sequence[int], prefix: int, context: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut one document.

    Args:
        ids: its tokens.
        prefix: the token that the first is predicted from.
        context: the most tokens in one window.

    Yields:
        Inputs and targets; the last target follows the last input, and so on backwards.
    """
    shifted = [prefix, *ids]
    for start in range(0, len(ids), context):
        stop = min(start + context, len(ids))
        yield tuple(shifted[max(stop - context, 0) : stop]), tuple(ids[start:stop])


@torch.inference_mode()
def rolling_quality(model: PreTrainedModel, architecture: Architecture, rolled: Rolled, name: str) -> RollingQuality:
    """Score a model, with a progress bar.

    Args:
        model: a causal LM.
        architecture: where its head is.
        rolled: the documents.
        name: of the model, for the bar.
    """
    backbone, head = architecture.backbone_of(model), architecture.head_of(model)
    total = 0.0
    with tqdm(total=rolled.tokens, desc=name, unit="token", leave=False) as progress:
        for inputs, targets in rolled.windows:
            inputs_1L = torch.tensor([inputs], device=model.device)
            hidden_LD = backbone(input_ids=inputs_1L, use_cache=False).last_hidden_state[0, -len(targets) :]
            total += _negative_log_likelihood(head, hidden_LD, torch.tensor(targets, device=model.device))
            progress.update(len(targets))
    pages = rolled.pages.pages
    return RollingQuality(total, rolled.tokens, rolled.pages.words, sum(page.utf8_bytes for page in pages))


def _negative_log_likelihood(head: torch.nn.Module, hidden_LD: Tensor, targets_L: Tensor) -> float:
    pieces = zip(hidden_LD.split(_CHUNK_TOKENS), targets_L.split(_CHUNK_TOKENS), strict=True)
    losses = [
        F.cross_entropy(head(ours_CD).float(), targets_C, reduction="sum").item() for ours_CD, targets_C in pieces
    ]
    return sum(losses)
