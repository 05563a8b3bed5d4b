"""Which cores a service and its clients use, so that the work of the clients is not charged to the service."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cores:
    """Cores of this process, dealt out.

    Attributes:
        service: those of the service, and of whatever it is compared with.
        clients: those of its clients; none where they go wherever the service goes.
    """

    service: tuple[int, ...]
    clients: tuple[int, ...]


def deal_cores(*, shared: bool) -> Cores:
    """The last core for the clients and the others for the service; all for both where there is one, or as asked.

    Keeps this process, and every process it starts from now on, to those of the service. To be called before torch
    starts its threads.
    """
    if not hasattr(os, "sched_setaffinity"):  # as on macOS
        return Cores(tuple(range(os.cpu_count() or 1)), ())
    mine = sorted(os.sched_getaffinity(0))
    if shared or len(mine) == 1:
        return Cores(tuple(mine), ())
    os.sched_setaffinity(0, mine[:-1])
    return Cores(tuple(mine[:-1]), tuple(mine[-1:]))
