"""How good a model is on a text."""

from dataclasses import dataclass

import torch


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
