"""Drawing tokens from the logits of many rows together, on whatever device they are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from anysize.engine.draw import MIN_TEMPERATURE
from anysize.engine.request import Sampling

# Almost always the tokens that are kept are among so many.
_CANDIDATES = 1024


def draw_together(logits_SV: Tensor, options: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """A token for each row, as likely as its logit says among those that the row's options keep. See `draw`.

    Args:
        logits_SV: of the rows.
        options: of each.
        uniforms: a number drawn from [0, 1) for each.
    """
    tokens = [0] * len(options)
    for plain in (True, False):
        rows = [row for row, one in enumerate(options) if one.keeps_all == plain]
        if rows:
            of_rows = _draw_from_all if plain else _draw_from_kept
            drawn = of_rows(logits_SV[rows], [options[row] for row in rows], [uniforms[row] for row in rows])
            for row, token in zip(rows, drawn, strict=True):
                tokens[row] = token
    return tokens


def _draw_from_all(logits_SV: Tensor, options: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    return _places(_weights(logits_SV, options), uniforms).tolist()


def _draw_from_kept(logits_SV: Tensor, options: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    vocabulary = logits_SV.shape[1]
    tokens: dict[int, int] = {}
    for candidates in (min(_CANDIDATES, vocabulary), vocabulary):
        # A row whose own settings and logits keep more than the candidates is left to the round over all tokens.
        rows = [row for row in range(len(options)) if row not in tokens]
        rows = [row for row in rows if options[row].top_k <= candidates or candidates == vocabulary]
        if not rows:
            continue
        some = [options[row] for row in rows]
        values_SC, ids_SC = logits_SV[rows].topk(candidates, dim=1)
        weights_SC, is_whole_S = _kept(values_SC, logits_SV[rows], some)
        done = [place for place, is_whole in enumerate(is_whole_S.tolist()) if is_whole or candidates == vocabulary]
        if done:
            places_D = _places(weights_SC[done], [uniforms[rows[place]] for place in done])
            ids_D = ids_SC[done].gather(1, places_D[:, None])[:, 0].tolist()
            tokens.update((rows[place], token) for place, token in zip(done, ids_D, strict=True))
    return [tokens[row] for row in range(len(options))]


def _kept(values_SC: Tensor, logits_SV: Tensor, options: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """Weights [S, C] of the candidates, likeliest first, 0 where dropped; and whether no token beyond them is kept."""
    column = {"device": values_SC.device, "dtype": torch.float64}
    top_p_S1 = torch.tensor([[one.top_p] for one in options], **column)
    min_p_S1 = torch.tensor([[one.min_p] for one in options], **column)
    top_k_S1 = torch.tensor([[one.top_k or logits_SV.shape[1]] for one in options], device=values_SC.device)
    place_C = torch.arange(values_SC.shape[1], device=values_SC.device)
    weights_SC = _weights(values_SC, options).where(place_C < top_k_S1, 0)
    within_S = top_k_S1[:, 0] <= values_SC.shape[1]
    total_S = weights_SC.sum(dim=1)
    if not bool(within_S.all()):
        total_S = total_S.where(within_S, _weights(logits_SV, options).sum(dim=1))
    before_SC = weights_SC.cumsum(dim=1) - weights_SC
    is_kept_SC = (before_SC < top_p_S1 * total_S[:, None]) & (weights_SC >= min_p_S1 * weights_SC[:, :1])
    is_kept_SC[:, 0] = True  # whatever top_p rounds to, one token stays
    return weights_SC.where(is_kept_SC, 0), within_S | ~is_kept_SC[:, -1]


def _weights(logits_SC: Tensor, options: Sequence[Sampling]) -> Tensor:
    """Probabilities, but for a common factor: 1 is the likeliest. float64, because thousands of them are added up."""
    temperatures = [[max(one.temperature, MIN_TEMPERATURE)] for one in options]
    temperature_S1 = torch.tensor(temperatures, device=logits_SC.device, dtype=torch.float64)
    logits_SC = logits_SC.double()
    # Subtracting the maximum first keeps a tiny temperature from overflowing.
    return ((logits_SC - logits_SC.amax(dim=1, keepdim=True)) / temperature_S1).exp()


def _places(weights_SC: Tensor, uniforms: Sequence[float]) -> Tensor:
    """One place of each row, as likely as its weight: where the running sum passes a number drawn for the row."""
    sums_SC = weights_SC.cumsum(dim=1)
    total_S1 = sums_SC[:, -1:].contiguous()
    uniform_S1 = torch.tensor(uniforms, device=sums_SC.device, dtype=torch.float64)[:, None]
    # The product may round up to the sum itself, which no place passes.
    below_S1 = torch.nextafter(total_S1, torch.zeros_like(total_S1))
    return torch.searchsorted(sums_SC, torch.minimum(uniform_S1 * total_S1, below_S1), right=True)[:, 0]
