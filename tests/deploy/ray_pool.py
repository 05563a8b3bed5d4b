"""A pool of replicas on a Ray of its own: `python ray_pool.py FAMILY REPLICAS PORT`; ends when its input does."""

import sys
import tempfile

import ray
from ray import serve

from anysize_ray import Fleet, build

family, replicas, port = sys.argv[1:]
# Sockets lie below, and their paths have to be short.
with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
    ray.init(
        num_cpus=int(replicas) + 1,
        include_dashboard=False,
        object_store_memory=100 << 20,
        logging_level="warning",
        _temp_dir=folder,
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
        fleet = Fleet.model_validate({"family": family, "min_replicas": int(replicas), "max_replicas": int(replicas)})
        serve.run(build(fleet), name="anysize")
        print("serving", flush=True)  # noqa: T201
        sys.stdin.read()
    finally:
        serve.shutdown()
        ray.shutdown()
