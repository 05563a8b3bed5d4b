"""How fast this machine reads memory, and what that allows: the limit beside which decoding speeds are shown."""

import time
from collections.abc import Iterable

import torch
from torch import Tensor

from anysize.engine.memory import layer_token_bytes
from anysize.family.arena import empty
from anysize.family.family import Family
from anysize.family.variant import Owner, Variant

_BYTES = 1 << 28


def read_bytes_per_s(device: torch.device) -> float:
    """Bytes that can be read in a second, the best of several sums over a tensor that fits no cache."""
    values = empty((_BYTES // 4,), dtype=torch.float32, device=device).fill_(1.0)  # in pages as weights have them
    taken_s: list[float] = []
    for _ in range(5):
        started_s = time.perf_counter()
        values.sum().item()
        taken_s.append(time.perf_counter() - started_s)
    return _BYTES / min(taken_s)


def step_bytes(family: Family, variants: Iterable[Variant], tokens: float) -> float:
    """Bytes that one decode step over these variants must read: every weight once, and the keys and values of each row.

    Args:
        family: of the variants.
        variants: one a row.
        tokens: stored for each row, on average.
    """
    bank, rows = family.bank, [*variants]
    architecture = bank.architecture
    modules = [bank.layer(ref) for row in rows for ref in row.stack(bank.blocks)]
    for owner in Owner:
        if any(row.head_owner is owner for row in rows):
            modules += [architecture.norm_of(bank.model(owner)), architecture.head_of(bank.model(owner))]
    weights: dict[int, Tensor] = {id(weight): weight for module in modules for weight in module.parameters()}
    layers = sum(row.depth(bank.blocks) for row in rows)
    weight_bytes = sum(weight.numel() * weight.element_size() for weight in weights.values())
    return weight_bytes + layers * tokens * layer_token_bytes(bank)
