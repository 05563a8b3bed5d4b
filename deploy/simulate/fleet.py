"""A fleet of replicas on a clock of its own.

Each replica has its places, its queue and the engine's own `Pressure`, and its answers go on as fast as the measured
step of so many answers of such a size allows. Requests go to the emptier of two replicas chosen at random, as Ray
sends them. Time goes in ticks, which is far longer than a step, so nothing shorter than a tick is to be read from it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from anysize.engine.limits import Limits
from anysize.engine.pressure import Pressure
from anysize.settings import load_settings
from autoscaler import PERIOD_S, Autoscaler
from replica import ANSWER_TOKENS, Replica

TICK_S = 1.0


@dataclass(slots=True)
class Counted:
    """What became of the requests.

    Attributes:
        arrived, answered, refused: requests.
        fractions: sum of the sizes that answered, over the teacher's.
        waits_s: of each request that got its turn.
        replica_s: seconds of replicas that there were, starting ones too.
        curve: of each autoscaler period: time, requests a second, replicas, mean demand and size, refused share.
    """

    arrived: int = 0
    answered: int = 0
    refused: int = 0
    fractions: float = 0.0
    waits_s: list[float] = field(default_factory=list)
    replica_s: float = 0.0
    curve: list[tuple[float, ...]] = field(default_factory=list)

    @property
    def started(self) -> int:
        """Requests that got their turn."""
        return len(self.waits_s)


class Fleet:
    """Replicas, some of them starting, some of them leaving.

    Args:
        replica: the figures of each.
        count: replicas at the start, all ready.
        adapts: whether sizes follow the load; otherwise all answers are of the largest.
        start_s: from the decision to add a replica to its first request.
        seed: of arrivals, routing and lengths.
        now_s: the time at which it begins.
    """

    def __init__(
        self, replica: Replica, count: int, *, adapts: bool, start_s: float, seed: int, now_s: float = 0.0
    ) -> None:
        self._replica = replica
        self._adapts = adapts
        self._start_s = start_s
        self._chance = np.random.default_rng(seed)
        settings = load_settings(max_running_requests=replica.places, max_queued_requests=replica.queue)
        self._limits = Limits.of(settings)
        self.counted = Counted()
        self.now_s = now_s
        self._ready_s = np.zeros(0)
        self._leaves = np.zeros(0, dtype=bool)
        self._left = np.zeros((0, replica.places))
        self._sizes = np.zeros((0, replica.places), dtype=int)
        self._debt_ms = np.zeros(0)
        self._queues: list[deque[float]] = []
        self._pressures: list[Pressure] = []
        self._add(count, ready_s=now_s)

    @property
    def total(self) -> int:
        """Replicas that there are and that stay."""
        return int((~self._leaves).sum())

    @property
    def present(self) -> int:
        """Requests that wait or run."""
        return int((self._left > 0).sum()) + sum(len(queue) for queue in self._queues)

    def run(self, seconds: float, rate_per_s: Callable[[float], float], autoscaler: Autoscaler | None) -> Counted:
        """Let time pass.

        Args:
            seconds: how much.
            rate_per_s: requests a second, by the time.
            autoscaler: decides how many replicas there are; nobody where there is none.
        """
        seen = (0, 0, 0.0, 0)
        for tick in range(round(seconds / TICK_S)):
            self._arrive(self._chance.poisson(rate_per_s(self.now_s) * TICK_S))
            self._start_answers()
            self._go_on()
            self.counted.replica_s += len(self._queues) * TICK_S
            self.now_s += TICK_S
            if tick % round(PERIOD_S / TICK_S) == 0:
                seen = self._draw(rate_per_s(self.now_s), seen)
                if autoscaler is not None:
                    self._scale(autoscaler.decide(self.now_s, self.total, self._figures(autoscaler)))
        return self.counted

    def _demand(self) -> "np.ndarray":
        waiting = np.array([len(queue) for queue in self._queues])
        return ((self._left > 0).sum(axis=1) + waiting) / self._replica.places

    def _is_open(self) -> "np.ndarray":
        return (self._ready_s <= self.now_s) & ~self._leaves

    def _figures(self, autoscaler: Autoscaler) -> list[float]:
        is_open = self._is_open()
        if autoscaler.metric == "demand":
            return self._demand()[is_open].tolist()
        return [float(len(self._queues[index])) for index in np.flatnonzero(is_open)]

    def _arrive(self, count: int) -> None:
        self.counted.arrived += count
        ready, demand = np.flatnonzero(self._is_open()), self._demand().tolist()
        for first, second in ready[self._chance.integers(len(ready), size=(count, 2))].tolist():
            index = first if demand[first] <= demand[second] else second
            if len(self._queues[index]) >= self._replica.queue:
                self.counted.refused += 1
            else:
                self._queues[index].append(self.now_s)
                demand[index] += 1 / self._replica.places

    def _start_answers(self) -> None:
        running = (self._left > 0).sum(axis=1)
        for index, queue in enumerate(self._queues):
            pressure = self._pressures[index]
            pressure.observe(running=int(running[index]), waiting=len(queue), waiting_tokens=0)
            if not queue:
                continue
            for place in np.flatnonzero(self._left[index] <= 0)[: len(queue)]:
                size = pressure.pick(self._replica.largest) if self._adapts else self._replica.largest
                self._left[index, place] = self._chance.integers(ANSWER_TOKENS // 4, 2 * ANSWER_TOKENS * 7 // 8 + 1)
                self._sizes[index, place] = size
                self._debt_ms[index] += self._replica.prefill_ms[size]
                self.counted.waits_s.append(self.now_s - queue.popleft())
                self.counted.fractions += self._replica.fractions[size]

    def _go_on(self) -> None:
        runs = self._left > 0
        running = runs.sum(axis=1)
        busy = running > 0
        time_ms = np.maximum(0.0, 1e3 * TICK_S - self._debt_ms)
        self._debt_ms = np.maximum(0.0, self._debt_ms - 1e3 * TICK_S)
        size = (self._sizes * runs).sum(axis=1)[busy] / running[busy]
        steps = np.zeros(len(running))
        steps[busy] = time_ms[busy] / self._replica.steps_ms(running[busy], size)
        self._left -= runs * steps[:, None]
        self.counted.answered += int((runs & (self._left <= 0)).sum())
        self._left = np.maximum(self._left, 0.0)
        gone = self._leaves & ~(self._left > 0).any(axis=1) & np.array([not queue for queue in self._queues])
        if gone.any():
            self._keep(~gone)

    def _scale(self, wanted: int) -> None:
        if wanted > self.total:
            self._add(wanted - self.total, ready_s=self.now_s + self._start_s)
        elif wanted < self.total:
            # The youngest leave: they take no more requests, and end once they have answered what they have.
            self._leaves[np.flatnonzero(~self._leaves)[wanted:]] = True

    def _add(self, count: int, ready_s: float) -> None:
        places = self._replica.places
        self._ready_s = np.append(self._ready_s, np.full(count, ready_s))
        self._leaves = np.append(self._leaves, np.zeros(count, dtype=bool))
        self._left = np.vstack([self._left, np.zeros((count, places))])
        self._sizes = np.vstack([self._sizes, np.zeros((count, places), dtype=int)])
        self._debt_ms = np.append(self._debt_ms, np.zeros(count))
        self._queues.extend(deque() for _ in range(count))
        self._pressures.extend(Pressure(self._limits) for _ in range(count))

    def _keep(self, kept: "np.ndarray") -> None:
        for name in ("_ready_s", "_leaves", "_left", "_sizes", "_debt_ms"):
            setattr(self, name, getattr(self, name)[kept])
        self._queues = [queue for queue, is_kept in zip(self._queues, kept, strict=True) if is_kept]
        self._pressures = [one for one, is_kept in zip(self._pressures, kept, strict=True) if is_kept]

    def _draw(self, rate_per_s: float, seen: tuple[int, int, float, int]) -> tuple[int, int, float, int]:
        counted = self.counted
        new = (counted.arrived, counted.started, counted.fractions, counted.refused)
        arrived, started, fractions, refused = (now - before for now, before in zip(new, seen, strict=True))
        demand = float(self._demand()[self._is_open()].mean())
        size = fractions / started if started else float("nan")
        counted.curve.append((self.now_s, rate_per_s, self.total, demand, size, refused / max(1, arrived)))
        return int(new[0]), int(new[1]), float(new[2]), int(new[3])
