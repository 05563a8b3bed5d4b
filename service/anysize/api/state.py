"""What the routes of one app share."""

import time
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from anysize.api.access import Access
from anysize.api.answer import TokenTexts
from anysize.api.metrics import Metrics
from anysize.api.prompt import PromptEncoder
from anysize.api.readers import Readers
from anysize.engine.engine import Engine
from anysize.engine.grammars import Grammars
from anysize.family.family import Family
from anysize.settings import Settings
from anysize.sizing.planner import Planner


@dataclass(frozen=True, slots=True, eq=False)
class ServiceState:
    """One service: its settings, what it serves, what runs it, who may use it, and what predicts times.

    Attributes:
        started_s: Unix time.
    """

    settings: Settings
    family: Family
    engine: Engine
    metrics: Metrics
    encoder: PromptEncoder
    texts: TokenTexts
    planner: Planner | None
    grammars: Grammars
    access: Access
    readers: Readers = field(default_factory=Readers)
    started_s: int = field(default_factory=lambda: int(time.time()))


async def _state(request: Request) -> ServiceState:
    # Not `def`: FastAPI would ask a thread for it, and make one if there is none.
    return cast(ServiceState, request.app.state.service)


Service = Annotated[ServiceState, Depends(_state)]
