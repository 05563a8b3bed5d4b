"""Picking the next token from logits. Each request has a generator of its own, so neighbours cannot change its text."""

import torch
from torch import Tensor

from anysize.engine.request import Sampling

# Anything smaller picks the likeliest token just as surely, but is 0 in float32, and 0 / 0 is no probability.
_MIN_TEMPERATURE = 1e-30


class Sampler:
    """Picks tokens for one request.

    Args:
        sampling: temperature, top-k, top-p and seed.
        device: of the logits.
    """

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self._sampling = sampling
        self._generator = torch.Generator(device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def pick(self, logits_V: Tensor) -> int:
        """The next token id, from the logits of one position."""
        if self._sampling.temperature == 0:
            return int(logits_V.argmax())
        probabilities_V = self._probabilities(logits_V.float())
        return int(torch.multinomial(probabilities_V, 1, generator=self._generator))

    def _probabilities(self, logits_V: Tensor) -> Tensor:
        sampling = self._sampling
        # Subtracting the maximum first keeps a tiny temperature from overflowing.
        logits_V = (logits_V - logits_V.max()) / max(sampling.temperature, _MIN_TEMPERATURE)
        if 0 < sampling.top_k < logits_V.numel():
            kept = logits_V.topk(sampling.top_k)
            logits_V = torch.full_like(logits_V, -torch.inf).scatter(0, kept.indices, kept.values)
        probabilities_V = logits_V.softmax(dim=-1)
        if sampling.top_p < 1:
            descending_V, order_V = probabilities_V.sort(descending=True, stable=True)
            before_V = descending_V.cumsum(dim=-1) - descending_V
            is_dropped_V = before_V >= sampling.top_p
            is_dropped_V[0] = False  # whatever top_p rounds to, one token stays
            probabilities_V[order_V[is_dropped_V]] = 0
        return probabilities_V
