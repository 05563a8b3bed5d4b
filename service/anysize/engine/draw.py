"""Drawing a token from the logits of one row, on the CPU.

By numpy, which is over one vocabulary before torch's threads have come together, and leaves the other cores to the
model. On a GPU `draws` takes all rows at once.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anysize.engine.request import Sampling

# Anything smaller picks the likeliest token just as surely, but 0 / 0 is no probability.
MIN_TEMPERATURE = 1e-30
# Sorting a whole vocabulary takes milliseconds; tokens at least as likely as such shares of the likeliest come first.
_CUTOFFS = (1e-2, 1e-4, 1e-6)


def draw(logits_V: Tensor, sampling: Sampling, uniform: float) -> int:
    """A token, as likely as its logit says among those that the options keep.

    Args:
        logits_V: float32; at least one is finite, and none is larger than that.
        sampling: the options; a temperature above 0.
        uniform: a number drawn from [0, 1), from which the token follows.
    """
    logits = logits_V.numpy()
    scale = np.float32(1 / max(sampling.temperature, MIN_TEMPERATURE))
    with np.errstate(over="ignore", under="ignore"):
        weights_V = np.exp((logits - logits.max()) * scale)
    if sampling.keeps_all:
        return _place(weights_V, uniform)
    ids_C = _candidates(weights_V, sampling)
    ids_C = ids_C[np.argsort(-weights_V[ids_C], kind="stable")][: sampling.top_k or None]
    return int(ids_C[_place(_kept(weights_V[ids_C], weights_V, sampling), uniform)])


def _candidates(weights_V: NDArray[np.float32], sampling: Sampling) -> NDArray[np.intp]:
    """Tokens among which are all that are kept, in order."""
    top_k = min(sampling.top_k, len(weights_V))
    enough = sampling.top_p * weights_V.sum(dtype=np.float64)
    for cutoff in _CUTOFFS:
        ids_C = np.flatnonzero(weights_V >= cutoff)
        if top_k:
            is_enough = len(ids_C) >= top_k
        else:
            is_enough = cutoff <= sampling.min_p or weights_V[ids_C].sum(dtype=np.float64) >= enough
        if is_enough:
            return ids_C
    return np.arange(len(weights_V))


def _kept(weights_C: NDArray[np.float32], weights_V: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float32]:
    """The weights of the candidates, likeliest first, without those that are dropped."""
    total = (weights_C if sampling.top_k else weights_V).sum(dtype=np.float64)
    before_C = np.cumsum(weights_C, dtype=np.float64) - weights_C
    is_kept_C = (before_C < sampling.top_p * total) & (weights_C >= sampling.min_p * weights_C[0])
    return weights_C[: max(1, int(is_kept_C.sum()))]  # whatever top_p rounds to, one token stays


def _place(weights_C: NDArray[np.float32], uniform: float) -> int:
    """A place as likely as its weight: where the running sum passes a share of them all."""
    sums_C = torch.from_numpy(weights_C).cumsum(0, dtype=torch.float64).numpy()
    # The product may round up to the sum itself, which no place passes.
    share = min(uniform * sums_C[-1], np.nextafter(sums_C[-1], 0))
    return int(np.searchsorted(sums_C, share, side="right"))
