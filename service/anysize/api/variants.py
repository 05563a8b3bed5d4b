"""`GET /variants`: the ladder of sizes."""

from fastapi import APIRouter

from anysize.api.access import KeyRoute
from anysize.api.schemas import VariantsOut
from anysize.api.state import Service

router = APIRouter(route_class=KeyRoute)


@router.get("/variants", summary="The served sizes, smallest first", response_model_exclude_unset=True)
async def variants(service: Service) -> VariantsOut:
    """Every served size with what it costs and what it is worth."""
    return VariantsOut.of(service.family, service.planner)
