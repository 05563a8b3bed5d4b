"""Anysize on Ray Serve: every replica is a whole service, Ray routes between them and decides how many there are.

    serve run anysize_ray:build family=/runs/mine/family min_replicas=2

The HTTP API is the service's own. A replica answers `/health`, `/ready` and `/metrics` for itself alone, so ask Ray
(`serve status`, and Ray's metrics) about the whole.
"""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from anysize.api.app import create_app
from anysize.commands.serve import load_calibration, load_family, load_kernels, load_model
from anysize.console import say
from anysize.engine.engine import Engine
from anysize.engine.model import Model
from anysize.errors import EngineError
from anysize.settings import load_settings

# Shares of a replica's places and of its memory for keys and values that the autoscaler aims at.
TARGETS = {"demand": 0.5, "kv": 0.8}


class Fleet(BaseModel):
    """What `serve run anysize_ray:build NAME=VALUE` may say.

    Attributes:
        min_replicas, max_replicas: how many there are.
        replica_cpus: cores of one replica, and threads of its torch.
        replica_gpus: of one replica.
        downscale_delay_s: how long fewer replicas would have to be enough before there are fewer.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=8, ge=1)
    replica_cpus: float = Field(default=1, gt=0)
    replica_gpus: float = Field(default=0, ge=0)
    downscale_delay_s: float = Field(default=300, ge=0)

    @property
    def settings(self) -> dict[str, Any]:
        """All other values: settings of the service, by their names, such as `family`."""
        return dict(self.model_extra or {})


@serve.deployment(name="Anysize")
@serve.ingress()
class Replica:
    """One service.

    Args:
        given: settings that were given, by their names.
        threads: of torch, where the settings leave them open.
    """

    def __init__(self, given: dict[str, Any], threads: int) -> None:
        settings = load_settings(**{"threads": threads, **given})
        kernels = load_kernels(settings, say)
        family = load_family(settings, say)
        calibration = load_calibration(settings, family, kernels, say)
        self._places = settings.max_running_requests
        self._model: Model = load_model(settings, family, kernels)
        self._app = create_app(settings, family, self._model, calibration)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    def check_health(self) -> None:
        """Ray's question whether the replica has to be replaced.

        Raises:
            EngineError: its engine is dead, or stuck in a step.
        """
        state = self._engine.state()
        if not state.draining and (not state.alive or state.stuck):
            raise EngineError("the engine is stuck" if state.stuck else "the engine has died")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `replicas_for_load` reads."""
        state = self._engine.state()
        return {
            "demand": (state.running + state.waiting) / self._places,
            "kv": self._model.used_pages / self._model.total_pages,
        }

    @property
    def _engine(self) -> Engine:
        return self._app.state.service.engine


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


def build(fleet: Fleet) -> serve.Application:
    """The application that `serve run` and `serve deploy` start."""
    settings = load_settings(**fleet.settings)
    return Replica.options(
        ray_actor_options={"num_cpus": fleet.replica_cpus, "num_gpus": fleet.replica_gpus},
        # The engine has the queue, since it is by its queue that sizes follow the load; Ray only passes requests on.
        max_ongoing_requests=settings.max_running_requests + settings.max_queued_requests,
        max_queued_requests=settings.max_queued_requests,
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.drain_s + 5,
        autoscaling_config=AutoscalingConfig(
            min_replicas=fleet.min_replicas,
            max_replicas=fleet.max_replicas,
            metrics_interval_s=2,
            look_back_period_s=10,
            upscale_delay_s=10,
            downscale_delay_s=fleet.downscale_delay_s,
            policy=AutoscalingPolicy(policy_function=replicas_for_load),
        ),
    ).bind(fleet.settings, max(1, int(fleet.replica_cpus)))
