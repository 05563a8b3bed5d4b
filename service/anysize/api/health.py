"""`GET /health`: does the engine live. `GET /ready`: are new requests taken. Both look at the engine, not at HTTP."""

from typing import Literal

from fastapi import APIRouter, Response

from anysize.api.schemas import HealthOut, ReadyOut
from anysize.api.state import Service
from anysize.engine.engine import EngineState

router = APIRouter()

Status = Literal["ok", "stalled", "dead"]


def status_of(state: EngineState) -> Status:
    """Whether the model thread lives and moves. One that ended because the service stops is no dead one."""
    if not state.alive and not state.draining:
        return "dead"
    return "stalled" if state.stuck else "ok"


@router.get("/health", summary="Liveness", responses={503: {"model": HealthOut}})
async def health(service: Service, response: Response) -> HealthOut:
    """200 while the model thread lives and moves, 503 once it is dead or stuck in a step."""
    state = service.engine.state()
    status = status_of(state)
    response.status_code = 200 if status == "ok" else 503
    return HealthOut(status=status, waiting=state.waiting, running=state.running, step_age_s=round(state.step_age_s, 3))


@router.get("/ready", summary="Readiness", responses={503: {"model": ReadyOut}})
async def ready(service: Service, response: Response) -> ReadyOut:
    """200 while new requests are taken, 503 once the service is stopping, and while the engine is dead or stuck."""
    state = service.engine.state()
    response.status_code = 200 if state.is_ready else 503
    return ReadyOut(ready=state.is_ready, family=service.family.name)
