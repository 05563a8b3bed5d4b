"""What the routes of one app share."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from anysize.api.answer import TokenTexts
from anysize.api.metrics import Metrics
from anysize.api.prompt import PromptEncoder
from anysize.engine.engine import Engine
from anysize.family.family import Family
from anysize.settings import Settings
from anysize.sizing.planner import Planner


@dataclass(frozen=True, slots=True, eq=False)
class ServiceState:
    """One service: its settings, what it serves, what runs it; and what predicts times, once that is calibrated."""

    settings: Settings
    family: Family
    engine: Engine
    metrics: Metrics
    encoder: PromptEncoder
    texts: TokenTexts
    planner: Planner | None


def _state(request: Request) -> ServiceState:
    return cast(ServiceState, request.app.state.service)


Service = Annotated[ServiceState, Depends(_state)]
