"""Anysize on Ray Serve: every replica is a whole service; Ray routes between them and decides how many there are.

    serve run anysize_ray:build family=/runs/mine/family min_replicas=2

The HTTP API is the service's own. A replica answers `/health`, `/ready` and `/metrics` for itself alone; ask Ray about
the whole (`serve status`, and Ray's metrics).
"""

from anysize_ray.application import Fleet, build

__all__ = ["Fleet", "build"]
