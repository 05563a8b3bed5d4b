"""What `serve run` and `serve deploy` start: a door, and the replicas behind it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from anysize.settings import load_settings
from anysize_ray.autoscaling import replicas_for_load
from anysize_ray.door import Door
from anysize_ray.replica import Replica


class Fleet(BaseModel):
    """What `serve run anysize_ray:build NAME=VALUE` may say.

    Attributes:
        min_replicas, max_replicas: how many there are.
        replica_cpus: cores of one replica, and threads of its torch.
        replica_gpus: of one replica.
        doors: that pass requests on. One that is killed takes the requests that it holds with it.
        downscale_delay_s: how long fewer replicas would have to be enough before there are fewer.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=8, ge=1)
    replica_cpus: float = Field(default=1, gt=0)
    replica_gpus: float = Field(default=0, ge=0)
    doors: int = Field(default=1, ge=1)
    downscale_delay_s: float = Field(default=300, ge=0)

    @property
    def settings(self) -> dict[str, Any]:
        """All other values: settings of the service, by their names, such as `family`."""
        return dict(self.model_extra or {})


def build(fleet: Fleet) -> serve.Application:
    """The application.

    Raises:
        SettingsError: a setting is unknown or out of range.
    """
    settings = load_settings(**fleet.settings)
    stopping = {"graceful_shutdown_wait_loop_s": 0.5, "graceful_shutdown_timeout_s": settings.drain_s + 5}
    # The engine has the queue, since it is by its queue that sizes follow the load; Ray only passes requests on.
    places = settings.max_running_requests + settings.max_queued_requests
    replicas = Replica.options(
        ray_actor_options={"num_cpus": fleet.replica_cpus, "num_gpus": fleet.replica_gpus},
        max_ongoing_requests=places,
        max_queued_requests=settings.max_queued_requests,
        health_check_period_s=5,
        health_check_timeout_s=30,
        autoscaling_config=AutoscalingConfig(
            min_replicas=fleet.min_replicas,
            max_replicas=fleet.max_replicas,
            metrics_interval_s=2,
            look_back_period_s=10,
            upscale_delay_s=10,
            downscale_delay_s=fleet.downscale_delay_s,
            policy=AutoscalingPolicy(policy_function=replicas_for_load),
        ),
        **stopping,
    ).bind(fleet.settings, max(1, int(fleet.replica_cpus)))
    return Door.options(
        num_replicas=fleet.doors,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=places * fleet.max_replicas,
        **stopping,
    ).bind(replicas, settings.max_body_bytes, settings.body_timeout_s)
