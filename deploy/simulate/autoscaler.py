"""Kubernetes' autoscaler, as its documentation describes it, with the targets and the behaviour of a manifest."""

import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

Metric = Literal["demand", "queue"]
PERIOD_S = 15
_TOLERANCE = 0.1


@dataclass(slots=True)
class Autoscaler:
    """Decides every `PERIOD_S` how many replicas there should be.

    Attributes:
        metric: which figure of the replicas it looks at.
        target: the mean of that figure that it aims at.
        least, most: how many there may be.
        up_share, up_count: how many may be added in a period: this share of them or this number, whichever is more.
        down_share: that may be taken away in a minute.
        stable_s: for how long fewer would have to do before any are taken away.
    """

    metric: Metric
    target: float
    least: int
    most: int
    up_share: float
    up_count: int
    down_share: float
    stable_s: float
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _taken_away_s: float = -math.inf

    @classmethod
    def of_manifest(cls, file: Path, metric: Metric, target: float | None = None) -> "Autoscaler":
        """With the behaviour that a manifest gives, and its target for demand unless another is named."""
        spec = yaml.safe_load(file.read_text())["spec"]
        targets = {one["pods"]["metric"]["name"]: one["pods"]["target"]["averageValue"] for one in spec["metrics"]}
        up, down = spec["behavior"]["scaleUp"]["policies"], spec["behavior"]["scaleDown"]
        by_type = {policy["type"]: policy["value"] for policy in up}
        return cls(
            metric=metric,
            target=int(targets["anysize_demand"].removesuffix("m")) / 1e3 if target is None else target,
            least=spec["minReplicas"],
            most=spec["maxReplicas"],
            up_share=by_type["Percent"] / 100,
            up_count=by_type["Pods"],
            down_share=down["policies"][0]["value"] / 100,
            stable_s=down["stabilizationWindowSeconds"],
        )

    def decide(self, now_s: float, total: int, figures: list[float]) -> int:
        """How many replicas there should be.

        Args:
            now_s: the time.
            total: replicas that there are, ready or starting.
            figures: of those that are ready; what is starting counts as idle.
        """
        share = sum(figures) / (total * self.target)
        wanted = total if abs(share - 1) <= _TOLERANCE else math.ceil(total * share)
        if wanted < total and len(figures) < total:
            wanted = total
        wanted = min(max(wanted, self.least), self.most)
        self._wanted.append((now_s, wanted))
        while self._wanted[0][0] < now_s - self.stable_s:
            self._wanted.popleft()
        if wanted > total:
            return min(wanted, max(math.ceil(total * (1 + self.up_share)), total + self.up_count))
        stable = max(one for _, one in self._wanted)
        if stable < total and now_s - self._taken_away_s >= 60:
            self._taken_away_s = now_s
            return max(stable, math.floor(total * (1 - self.down_share)))
        return total
