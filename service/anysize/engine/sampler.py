"""Picking the next token of many requests at once, from their logits.

What a row gets depends on its own logits, settings and generator alone, so neighbours cannot change a request's text.
The options apply in the order of transformers: repetition penalty, temperature, top-k, top-p, min-p. What a grammar
forbids is taken out after the penalty.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from anysize.engine.grammar import Constraint
from anysize.engine.request import Pick, Sampling, TokenLogprob
from anysize.errors import EngineError

# Anything smaller picks the likeliest token just as surely, but 0 / 0 is no probability.
_MIN_TEMPERATURE = 1e-30
# Sorting a whole vocabulary takes milliseconds; almost always the tokens that are kept are among so many.
_CANDIDATES = 1024
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
    best_R, tokens_R = likeliest(shaped_RV)
    if not bool(best_R.isfinite().all()):
        raise EngineError("the model's logits are no numbers")
    tokens = tokens_R.tolist()
    drawing = [row for row, sampler in enumerate(samplers) if sampler.draws]
    for plain in (True, False):
        rows = [row for row in drawing if _keeps_all(samplers[row].sampling) == plain]
        if rows:
            draw = _draw_from_all if plain else _draw_from_kept
            for row, token in zip(rows, draw(shaped_RV[rows], [samplers[row] for row in rows]), strict=True):
                tokens[row] = token
    picks = [
        Pick(token) if sampler.sampling.logprobs is None else _reported(logits_V, token, sampler.sampling.logprobs)
        for logits_V, token, sampler in zip(logits_RV, tokens, samplers, strict=True)
    ]
    for sampler, token in zip(samplers, tokens, strict=True):
        sampler.note(token)
    return picks


def likeliest(logits_RV: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of each row and its token, the first of equals.

    On the CPU torch looks for a place many times as long as numpy does, and wakes its threads for it.
    """
    if logits_RV.is_cuda:
        best_R, tokens_R = logits_RV.max(dim=1)
        return best_R, tokens_R
    tokens_R = torch.from_numpy(logits_RV.float().numpy().argmax(axis=1))
    return logits_RV.gather(1, tokens_R[:, None])[:, 0], tokens_R


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


def _keeps_all(sampling: Sampling) -> bool:
    return sampling.top_p == 1 and sampling.top_k == 0 and sampling.min_p == 0


def _draw_from_all(logits_SV: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    return _drawn(_weights(logits_SV, samplers), samplers).tolist()


def _draw_from_kept(logits_SV: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    vocabulary = logits_SV.shape[1]
    tokens: dict[int, int] = {}
    for candidates in (min(_CANDIDATES, vocabulary), vocabulary):
        # A row whose own settings and logits keep more than the candidates is left to the round over all tokens.
        rows = [row for row, sampler in enumerate(samplers) if row not in tokens]
        rows = [row for row in rows if samplers[row].sampling.top_k <= candidates or candidates == vocabulary]
        if not rows:
            continue
        some = [samplers[row] for row in rows]
        values_SC, ids_SC = logits_SV[rows].topk(candidates, dim=1)
        weights_SC, is_whole_S = _kept(values_SC, logits_SV[rows], some)
        done = [place for place, is_whole in enumerate(is_whole_S.tolist()) if is_whole or candidates == vocabulary]
        if done:
            places_D = _drawn(weights_SC[done], [some[place] for place in done])
            ids_D = ids_SC[done].gather(1, places_D[:, None])[:, 0].tolist()
            tokens.update((rows[place], token) for place, token in zip(done, ids_D, strict=True))
    return [tokens[row] for row in range(len(samplers))]


def _kept(values_SC: Tensor, logits_SV: Tensor, samplers: Sequence[Sampler]) -> tuple[Tensor, Tensor]:
    """Weights [S, C] of the candidates, likeliest first, 0 where dropped; and whether no token beyond them is kept."""
    options = [sampler.sampling for sampler in samplers]
    column = {"device": values_SC.device, "dtype": torch.float64}
    top_p_S1 = torch.tensor([[one.top_p] for one in options], **column)
    min_p_S1 = torch.tensor([[one.min_p] for one in options], **column)
    top_k_S1 = torch.tensor([[one.top_k or logits_SV.shape[1]] for one in options], device=values_SC.device)
    place_C = torch.arange(values_SC.shape[1], device=values_SC.device)
    weights_SC = _weights(values_SC, samplers).where(place_C < top_k_S1, 0)
    within_S = top_k_S1[:, 0] <= values_SC.shape[1]
    total_S = weights_SC.sum(dim=1)
    if not bool(within_S.all()):
        total_S = total_S.where(within_S, _weights(logits_SV, samplers).sum(dim=1))
    before_SC = weights_SC.cumsum(dim=1) - weights_SC
    is_kept_SC = (before_SC < top_p_S1 * total_S[:, None]) & (weights_SC >= min_p_S1 * weights_SC[:, :1])
    is_kept_SC[:, 0] = True  # whatever top_p rounds to, one token stays
    return weights_SC.where(is_kept_SC, 0), within_S | ~is_kept_SC[:, -1]


def _weights(logits_SC: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Probabilities, but for a common factor: 1 is the likeliest. float64, because thousands of them are added up."""
    temperatures = [[max(sampler.sampling.temperature, _MIN_TEMPERATURE)] for sampler in samplers]
    temperature_S1 = torch.tensor(temperatures, device=logits_SC.device, dtype=torch.float64)
    logits_SC = logits_SC.double()
    # Subtracting the maximum first keeps a tiny temperature from overflowing.
    return ((logits_SC - logits_SC.amax(dim=1, keepdim=True)) / temperature_S1).exp()


def _drawn(weights_SC: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """One place of each row, as likely as its weight: where the running sum passes a number drawn for the row."""
    sums_SC = weights_SC.cumsum(dim=1)
    total_S1 = sums_SC[:, -1:].contiguous()
    uniform_S1 = torch.tensor([[sampler.uniform()] for sampler in samplers], device=sums_SC.device, dtype=torch.float64)
    # The product may round up to the sum itself, which no place passes.
    below_S1 = torch.nextafter(total_S1, torch.zeros_like(total_S1))
    return torch.searchsorted(sums_SC, torch.minimum(uniform_S1 * total_S1, below_S1), right=True)[:, 0]


def _reported(logits_V: Tensor, token: int, count: int) -> Pick:
    logprobs_V = logits_V.float().log_softmax(dim=0).clamp(min=_LEAST_LOGPROB)
    top = logprobs_V.topk(min(count, logprobs_V.numel()))
    likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return Pick(token, float(logprobs_V[token]), tuple(TokenLogprob(*one) for one in likeliest))
