"""How many replicas there should be, from what they say of themselves."""

from typing import Any

from ray.serve.config import AutoscalingContext

# Shares of a replica's places, and of its memory for keys and values, that the autoscaler aims at.
TARGETS = {"demand": 0.5, "kv": 0.8}


def replicas_for_load(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """How many replicas would bring demand and memory to their targets: the larger of the two.

    Sizes give way from a demand of 0.5 on, so it is the demand that says how many are missing; a queue alone would
    grow only once everybody who allows it is at the smallest size.
    """
    measured = context.aggregated_metrics or {}
    running = len(context.running_replicas)
    shares = [
        sum(of_replica.values()) / len(of_replica) / target
        for name, target in TARGETS.items()
        if (of_replica := measured.get(name))
    ]
    # While nothing has been measured, as at the start, nothing changes.
    return (running * max(shares), {}) if shares and running else (context.target_num_replicas, {})
