"""What the teacher says of a text: what other models are measured against."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from anysize_training.study.quality import Quality

Says = Callable[[Tensor], Tensor]
"""Makes log probabilities of hidden states: `[C, D]` to `[C, V]`."""

# With 50,000 tokens of vocabulary 25 MB. glibc gives more than 32 MB back to the kernel each time, and every page of it
# is then paid for anew: twice as many tokens took twice as long for everything but the matrix product.
_CHUNK_TOKENS = 128
_KEPT_BYTES = 3 << 29


class Reference:
    """The teacher's log probabilities on a text, kept as far as there is room and made again beyond that.

    Args:
        says: of the teacher.
        hidden: the teacher's, pieces of the text, each (..., width).
        targets: the same pieces, (...): the tokens to be predicted.
        kept_bytes: of log probabilities.
    """

    @torch.inference_mode()
    def __init__(
        self, says: Says, hidden: Sequence[Tensor], targets: Sequence[Tensor], *, kept_bytes: int = _KEPT_BYTES
    ) -> None:
        self._says = says
        self._hidden = hidden
        self._targets_T = torch.cat([piece.flatten() for piece in targets])
        self._kept: list[Tensor] = []
        for chunk_CD in _chunks(hidden):
            self._kept.append(says(chunk_CD))
            kept_bytes -= self._kept[-1].nbytes
            if kept_bytes <= 0:
                break

    def own_quality(self) -> Quality:
        """The teacher's own."""
        return self.quality(self._says, self._hidden)

    @torch.inference_mode()
    def quality(self, says: Says, hidden: Sequence[Tensor]) -> Quality:
        """The quality of a model.

        Args:
            says: of the model.
            hidden: its, cut as the teacher's.
        """
        likelihood = divergence = 0.0
        pieces = zip(_chunks(hidden), self._log_probabilities(), self._targets_T.split(_CHUNK_TOKENS), strict=True)
        for ours_CD, theirs_CV, targets_C in pieces:
            ours_CV = says(ours_CD)
            likelihood += F.nll_loss(ours_CV, targets_C, reduction="sum").item()
            divergence += F.kl_div(ours_CV, theirs_CV, reduction="sum", log_target=True).item()
        tokens = len(self._targets_T)
        return Quality(likelihood / tokens, divergence / tokens)

    def _log_probabilities(self) -> Iterator[Tensor]:
        for number, chunk_CD in enumerate(_chunks(self._hidden)):
            yield self._kept[number] if number < len(self._kept) else self._says(chunk_CD)


def _chunks(hidden: Sequence[Tensor]) -> Iterator[Tensor]:
    """All tokens, some at a time, whatever the pieces."""
    yield from torch.cat([piece.flatten(0, -2) for piece in hidden]).split(_CHUNK_TOKENS)
