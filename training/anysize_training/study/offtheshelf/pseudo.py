"""Pseudo-perplexity of masked language models (Salazar et al. 2020, arXiv 1910.14659, Equations 1 and 3).

Each token of a text is masked by itself and predicted from all the others of its window; a window stands between the
tokenizer's beginning and end tokens, which are not scored.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import BertForMaskedLM
from transformers import PreTrainedTokenizerBase as Tokenizer

from anysize.errors import SettingsError
from anysize_training.study.quality import Quality
from anysize_training.study.reference import Reference
from anysize_training.study.texts import Windows


class PseudoEvaluator:
    """Scores models on one text; what the teacher says of each token is computed once.

    Args:
        teacher: that others are compared with.
        tokenizer: knows the mask, the beginning and the end.
        windows: the text; here each token of a window but its last, which begins the next, is scored.
        batch: masked copies of a window run at once.

    Raises:
        SettingsError: the tokenizer has no mask, or a window does not fit the model.
    """

    def __init__(self, teacher: BertForMaskedLM, tokenizer: Tokenizer, windows: Windows, *, batch: int = 32) -> None:
        special = [tokenizer.cls_token_id, tokenizer.mask_token_id, tokenizer.sep_token_id]
        found = [token for token in special if isinstance(token, int)]
        if len(found) < len(special):
            raise SettingsError("the tokenizer has no mask, or no tokens that begin and end a text: it is of no BERT")
        self._begin, self._mask, self._end = found
        self._tokens_NL = windows.tokens_NL[:, :-1].to(teacher.device)
        self._batch = batch
        longest = teacher.config.max_position_embeddings - 2
        if self._tokens_NL.shape[1] > longest:
            raise SettingsError(
                f"a window of {self._tokens_NL.shape[1]} tokens is too long; --window is at most {longest}"
            )
        hidden = [self._hidden(teacher, "teacher")]
        self._reference = Reference(partial(_log_probabilities, teacher), hidden, [self._tokens_NL])

    def quality(self, model: BertForMaskedLM, name: str) -> Quality:
        """Score one model.

        Args:
            model: any.
            name: of it, for the progress bar.
        """
        return self._reference.quality(partial(_log_probabilities, model), [self._hidden(model, name)])

    @torch.inference_mode()
    def _hidden(self, model: BertForMaskedLM, name: str) -> Tensor:
        """Hidden states of shape (tokens, width), each at a token while that token alone is masked."""
        found: list[Tensor] = []
        with tqdm(total=self._tokens_NL.numel(), desc=name, unit="token", leave=False) as progress:
            for window_L in self._tokens_NL:
                for masked_BL, places_B in self._masked(window_L):
                    hidden_BLD = model.bert(input_ids=masked_BL).last_hidden_state
                    found.append(hidden_BLD[torch.arange(len(places_B), device=places_B.device), places_B])
                    progress.update(len(places_B))
        return torch.cat(found)

    def _masked(self, window_L: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Copies of a window with one token masked in each, and where it is."""
        whole = torch.cat([window_L.new_tensor([self._begin]), window_L, window_L.new_tensor([self._end])])
        for places_B in torch.arange(1, len(window_L) + 1, device=window_L.device).split(self._batch):
            copies_BL = whole.repeat(len(places_B), 1)
            copies_BL[torch.arange(len(places_B), device=window_L.device), places_B] = self._mask
            yield copies_BL, places_B


def _log_probabilities(model: BertForMaskedLM, hidden_CD: Tensor) -> Tensor:
    return F.log_softmax(model.cls(hidden_CD).float(), dim=-1)
