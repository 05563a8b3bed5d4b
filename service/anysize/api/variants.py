"""`GET /variants`: the ladder of sizes."""

from fastapi import APIRouter

from anysize.api.schemas import VariantOut, VariantsOut
from anysize.api.state import Service

router = APIRouter()


@router.get("/variants", summary="The served sizes, smallest first", response_model_exclude_unset=True)
async def variants(service: Service) -> VariantsOut:
    """Every served size with what it costs."""
    listed = [VariantOut.of(size, service.planner) for size in service.family.ladder]
    return VariantsOut(family=service.family.name, variants=listed)
