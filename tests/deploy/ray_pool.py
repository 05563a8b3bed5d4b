"""A pool of replicas on a Ray of its own: `python ray_pool.py FAMILY REPLICAS PORT`; ends when its input does."""

# pyright: reportMissingImports=false, reportPrivateImportUsage=false
# Ray is an extra that not everybody has.

import logging
import sys
import tempfile

import ray
from ray import serve
from ray.serve._private import api, client

from anysize_ray import Fleet, build

_TRIES = 3
_PROXY_WITHIN_S = 400


def start(cpus: int, folder: str) -> None:
    """Ray on this machine alone. It gives itself 30 s for that, and a busy machine may take longer."""
    for attempt in range(_TRIES):
        try:
            ray.init(
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=100 << 20,
                logging_level=logging.WARNING,
                _temp_dir=folder,
            )
            return
        except Exception as error:  # Ray has no class for it
            if "timed out during startup" not in str(error) or attempt == _TRIES - 1:
                raise
            ray.shutdown()


family, replicas, port = sys.argv[1:]
# Sockets lie below, and their paths have to be short.
with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as scratch:
    start(int(replicas) + 1, scratch)
    # A busy machine takes longer for a proxy than the minute that Serve waits, and there is no setting for it.
    api.HTTP_PROXY_TIMEOUT = client.HTTP_PROXY_TIMEOUT = _PROXY_WITHIN_S
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
        fleet = Fleet.model_validate({"family": family, "min_replicas": int(replicas), "max_replicas": int(replicas)})
        serve.run(build(fleet), name="anysize")
        print("serving", flush=True)  # noqa: T201  (the test waits for it)
        sys.stdin.read()
    finally:
        serve.shutdown()
        ray.shutdown()
