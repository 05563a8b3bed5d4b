"""Picking the next token of many requests at once, from their logits.

What a row gets depends on its own logits, settings and generator alone, so neighbours cannot change a request's text.
The options apply in the order of transformers: repetition penalty, temperature, top-k, top-p, min-p. What a grammar
forbids is taken out after the penalty.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anysize.engine.draw import draw
from anysize.engine.draws import draw_together
from anysize.engine.grammar import Constraint
from anysize.engine.request import Pick, Sampling, TokenLogprob
from anysize.errors import EngineError

# JSON has no minus infinity.
_LEAST_LOGPROB = -9999.0


class Sampler:
    """What one answer needs for its picks: options, generator, and the tokens it has seen.

    Args:
        sampling: the options.
        prompt_ids: count as seen for the repetition penalty.
        sample: added to the seed, so that the answers to one request differ.
        constraint: that a grammar puts on the answer, if any; moves on with each token.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt_ids: Sequence[int] = (),
        sample: int = 0,
        constraint: Constraint | None = None,
    ) -> None:
        self.sampling = sampling
        self.constraint = constraint
        self._seen = list(prompt_ids) if self.penalises else []
        self._seen_V: Tensor | None = None
        self._generator: torch.Generator | None = None
        self._uniform: float | None = None
        if sampling.temperature > 0:
            # On the CPU whatever the model is on: the same seed means the same text on every device.
            self._generator = torch.Generator()
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed + sample)

    @property
    def draws(self) -> bool:
        """Whether chance has a part in it."""
        return self._generator is not None

    @property
    def penalises(self) -> bool:
        """Whether what has been seen has a part in it."""
        return self.sampling.repetition_penalty != 1

    def uniform(self) -> float:
        """The number that its generator has for the next token, at least 0 and below 1; another once that is noted."""
        assert self._generator is not None
        if self._uniform is None:
            self._uniform = float(torch.rand((), generator=self._generator, dtype=torch.float64))
        return self._uniform

    def seen(self, logits_V: Tensor) -> Tensor:
        """Which tokens of the vocabulary have been seen: booleans [V] on the device of the logits."""
        if self._seen_V is None:
            self._seen_V = torch.zeros_like(logits_V, dtype=torch.bool)
            self._seen_V[torch.tensor(self._seen, device=logits_V.device, dtype=torch.long)] = True
        return self._seen_V

    def note(self, token_id: int) -> None:
        """A token has been picked."""
        self._uniform = None
        if self._seen_V is not None:
            self._seen_V[token_id] = True
        if self.constraint is not None:
            self.constraint.note(token_id)


def pick(logits_RV: Tensor, samplers: Sequence[Sampler]) -> list[Pick]:
    """The next token of each row. If this raises, no sampler has moved, and the same rows can be brought again.

    Args:
        logits_RV: one row a sampler; not changed.
        samplers: of the rows, in order. Those that draw move on by one number.

    Raises:
        EngineError: the logits of a row hold a value that is no number, or infinity.
        RequestError: the grammar of a row cannot go on.
    """
    assert logits_RV.shape[0] == len(samplers)
    shaped_RV = _constrained(_penalised(logits_RV, samplers), samplers)
    best, tokens = likeliest(shaped_RV)
    if not all(map(math.isfinite, best)):
        raise EngineError("the model's logits are no numbers")
    drawing = [row for row, sampler in enumerate(samplers) if sampler.draws]
    for row, token in zip(drawing, _drawn(shaped_RV, samplers, drawing), strict=True):
        tokens[row] = token
    picks = [
        Pick(token) if sampler.sampling.logprobs is None else _reported(logits_V, token, sampler.sampling.logprobs)
        for logits_V, token, sampler in zip(logits_RV, tokens, samplers, strict=True)
    ]
    for sampler, token in zip(samplers, tokens, strict=True):
        sampler.note(token)
    return picks


def likeliest(logits_RV: Tensor) -> tuple[list[float], list[int]]:
    """The largest logit of each row and its token, the first of equals.

    On the CPU torch looks for a place many times as long as numpy does, and wakes its threads for it.
    """
    if logits_RV.is_cuda:
        best_R, tokens_R = logits_RV.max(dim=1)
        return best_R.tolist(), tokens_R.tolist()
    rows = logits_RV.float().numpy()
    places = rows.argmax(axis=1)
    return rows[np.arange(len(rows)), places].tolist(), places.tolist()


def _penalised(logits_RV: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Logits of seen tokens, divided by the penalty where positive and multiplied by it where negative."""
    rows = [row for row, sampler in enumerate(samplers) if sampler.penalises]
    if not rows:
        return logits_RV
    penalty_S1 = logits_RV.new_tensor([[samplers[row].sampling.repetition_penalty] for row in rows])
    seen_SV = torch.stack([samplers[row].seen(logits_RV[row]) for row in rows])
    logits_SV = logits_RV[rows]
    less_SV = torch.where(logits_SV > 0, logits_SV / penalty_S1, logits_SV * penalty_S1)
    shaped_RV = logits_RV.clone()
    shaped_RV[rows] = torch.where(seen_SV, less_SV, logits_SV)
    return shaped_RV


def _constrained(logits_RV: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Logits of which those that a row's grammar forbids are minus infinity."""
    rows = [row for row, sampler in enumerate(samplers) if sampler.constraint is not None]
    if not rows:
        return logits_RV
    constraints = [constraint for sampler in samplers if (constraint := sampler.constraint) is not None]
    allowed_SV = torch.stack([constraint.allowed(logits_RV.shape[1]) for constraint in constraints])
    shaped_RV = logits_RV.clone()
    shaped_RV[rows] = logits_RV[rows].where(allowed_SV.to(logits_RV.device), float("-inf"))
    return shaped_RV


def _drawn(logits_RV: Tensor, samplers: Sequence[Sampler], rows: Sequence[int]) -> list[int]:
    """A token for each of some rows."""
    options = [samplers[row].sampling for row in rows]
    uniforms = [samplers[row].uniform() for row in rows]
    if logits_RV.is_cuda:
        return draw_together(logits_RV[rows], options, uniforms) if rows else []
    return [
        draw(logits_RV[row].float(), one, uniform) for row, one, uniform in zip(rows, options, uniforms, strict=True)
    ]


def _reported(logits_V: Tensor, token: int, count: int) -> Pick:
    logprobs_V = logits_V.float().log_softmax(dim=0).clamp(min=_LEAST_LOGPROB)
    top = logprobs_V.topk(min(count, logprobs_V.numel()))
    likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return Pick(token, float(logprobs_V[token]), tuple(TokenLogprob(*one) for one in likeliest))
