"""How sizes that follow the load and an autoscaler work together, on fleets of up to 1,000 replicas.

python deploy/simulate --plot fleet.png      from the figures in replica.json
python deploy/simulate --measure             writes them anew, for this machine: run `anysize calibrate` first
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anysize.errors import AnysizeError
from autoscaler import Autoscaler, Metric
from fleet import Counted, Fleet
from picture import draw
from replica import Replica

_HERE = Path(__file__).parent
_FIGURES = _HERE / "replica.json"
_MANIFEST = _HERE.parent / "k8s" / "autoscaler.yaml"
_QUIET, _BURST_AT_S, _BURST_S = 0.3, 300.0, 900.0
_WARM_S = 120.0  # before anything counts or scales, so that replicas are as busy as they would be


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a fleet: whether sizes follow the load, and what the autoscaler looks at, if there is one."""

    name: str
    adapts: bool
    metric: Metric | None
    target: float | None = None


WAYS = (
    Way("largest size, autoscaler on demand", adapts=False, metric="demand"),
    Way("sizes follow, autoscaler on demand", adapts=True, metric="demand"),
    Way("sizes follow, autoscaler on the queue", adapts=True, metric="queue", target=4),
    Way("sizes follow, no autoscaler", adapts=True, metric=None),
)


def simulate(replica: Replica, way: Way, replicas: int, *, seconds: float, start_s: float, seed: int) -> Counted:
    """One fleet through one burst.

    The burst is what `replicas` of them answer on the largest size at the autoscaler's target; before and after it
    requests come at 0.3 times that rate, and there are as many replicas as that needs.

    Args:
        replica: the figures of each.
        way: to run it.
        replicas: that the burst needs.
        seconds: of the whole.
        start_s: from the decision to add a replica to its first request.
        seed: of all that is random.
    """
    aim = Autoscaler.of_manifest(_MANIFEST, "demand").target
    most_per_s = replicas * replica.capacity_per_s(aim)
    autoscaler = Autoscaler.of_manifest(_MANIFEST, way.metric, way.target) if way.metric is not None else None
    count = max(2, round(_QUIET * replicas))
    fleet = Fleet(replica, count, adapts=way.adapts, start_s=start_s, seed=seed, now_s=-_WARM_S)
    fleet.run(_WARM_S, _rate(most_per_s), None)
    fleet.counted = Counted()
    return fleet.run(seconds, _rate(most_per_s), autoscaler)


def _rate(most_per_s: float) -> Callable[[float], float]:
    return lambda now_s: most_per_s * (1.0 if _BURST_AT_S <= now_s < _BURST_AT_S + _BURST_S else _QUIET)


def report(counted: Counted) -> dict[str, Any]:
    """The figures of one fleet."""
    waits_s = np.array(counted.waits_s)
    return {
        "requests": counted.arrived,
        "refused_share": round(counted.refused / counted.arrived, 4),
        "wait_p95_s": round(float(np.quantile(waits_s, 0.95)), 2),
        "mean_size": round(counted.fractions / counted.started, 3),
        "smallest_mean_size": round(float(np.nanmin([point[4] for point in counted.curve])), 3),
        "replica_hours": round(counted.replica_s / 3600, 2),
        "most_replicas": int(max(point[2] for point in counted.curve)),
    }


def main() -> int:
    """Simulate every way, and print what came of each as JSON."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--measure", action="store_true", help="write replica.json for this machine, and end")
    parser.add_argument("--replicas", type=int, nargs="+", default=[10, 100, 1000], help="that the burst needs")
    parser.add_argument("--minutes", type=float, default=30, help="of the whole; the burst is minutes 5 to 20")
    parser.add_argument(
        "--start-s", type=float, default=60, help="from the decision for a replica to its first request"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="draw the largest fleet into this file")
    given = parser.parse_args()
    if given.measure:
        try:
            _FIGURES.write_text(Replica.measured().model_dump_json() + "\n")
        except AnysizeError as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
        return 0
    replica = Replica.read(_FIGURES)
    found: dict[str, Any] = {"start_s": given.start_s, "minutes": given.minutes, "fleets": {}}
    curves: dict[str, Counted] = {}
    for replicas in given.replicas:
        found["fleets"][replicas] = {}
        for way in WAYS:
            sys.stderr.write(f"{replicas} replicas: {way.name}\n")
            seconds = 60 * given.minutes
            counted = simulate(replica, way, replicas, seconds=seconds, start_s=given.start_s, seed=given.seed)
            found["fleets"][replicas][way.name] = report(counted)
            curves[way.name] = counted
    if given.plot is not None:
        draw(curves, given.plot)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
