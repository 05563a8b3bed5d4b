"""`GET /variants`: the ladder of sizes."""

from fastapi import APIRouter

from anysize.api.schemas import VariantOut, VariantsOut
from anysize.api.state import Service

router = APIRouter()


@router.get("/variants", summary="The served sizes, smallest first")
async def variants(service: Service) -> VariantsOut:
    """Every served size with what it costs."""
    return VariantsOut(family=service.family.name, variants=[VariantOut.of(size) for size in service.family.ladder])
