"""How long assembling a variant takes, and how many weight bytes it adds."""

import statistics
import time
from typing import Any

from anysize.family.family import Family


def bench_build(family: Family, rounds: int) -> dict[str, Any]:
    """Assemble every served size several times.

    Args:
        family: whose ladder is assembled.
        rounds: assemblies of each size; the first round is not counted.

    Returns:
        Milliseconds (median, each size's median, the slowest of these, worst single one) and bytes of tensors that are
        not the bank's.
    """
    owned = {tensor.data_ptr() for tensor in family.bank.tensors()}
    new_bytes = 0
    taken_ms: dict[str, list[float]] = {size.id: [] for size in family.ladder}
    for round_number in range(rounds + 1):
        for size in family.ladder:
            started = time.perf_counter()
            model = family.assemble(size.variant)
            elapsed_ms = 1e3 * (time.perf_counter() - started)
            if round_number:
                taken_ms[size.id].append(elapsed_ms)
            else:
                tensors = (*model.parameters(), *model.buffers())
                new_bytes += sum(t.numel() * t.element_size() for t in tensors if t.data_ptr() not in owned)
    medians_ms = {size: statistics.median(values) for size, values in taken_ms.items()}
    everything = [value for values in taken_ms.values() for value in values]
    return {
        "benchmark": "build",
        "sizes": len(family.ladder),
        "rounds": rounds,
        "median_ms": statistics.median(everything),
        "slowest_size_median_ms": max(medians_ms.values()),
        "worst_ms": max(everything),
        "new_weight_bytes": new_bytes,
        "size_median_ms": medians_ms,
    }
