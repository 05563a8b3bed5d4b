"""`GET /v1/models`: the family and each of its sizes; and which of them a request means."""

import re
from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from anysize.api.access import KeyRoute
from anysize.api.openai.errors import OpenAIErrorOut
from anysize.api.state import Service, ServiceState
from anysize.errors import BudgetError, ModelNameError, VariantError
from anysize.family.family import Family, Size
from anysize.sizing.budget import Budget, choose

router = APIRouter(route_class=KeyRoute)

_FRACTION = re.compile(r"[0-9]*\.?[0-9]+", re.ASCII)
_MAX_SHOWN = 100
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": OpenAIErrorOut, "description": "no such model"}}


class ModelOut(BaseModel):
    """A name that requests may use, with what the size behind it costs."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["anysize"] = "anysize"
    variant: str
    parameters: int
    fraction: float
    layers: int
    max_model_len: int


class ModelsOut(BaseModel):
    """Every name that is listed; `NAME@FRACTION` is understood for any fraction."""

    object: Literal["list"] = "list"
    data: list[ModelOut]


def model_name(family: Family, size: Size) -> str:
    """The name of one size."""
    return f"{family.name}@{size.id}"


def named(family: Family, name: str, budget: Budget | None) -> tuple[str | None, Budget | None]:
    """What a model's name and a budget ask for together.

    Returns:
        The id of a variant, where the name is that of one; and the budget, with the bound of the name.

    Raises:
        ModelNameError: no such model.
    """
    if name == family.name:
        return None, budget
    choice = name.removeprefix(f"{family.name}@")
    if choice != name and _FRACTION.fullmatch(choice) and 0 < (fraction := float(choice)) <= 1:
        given = budget or Budget()
        return None, replace(given, fraction=min(fraction, given.fraction or 1.0))
    try:
        return family.parse(choice).id, budget
    except VariantError as error:
        sizes = ", ".join(size.id for size in family.ladder[:4])
        raise ModelNameError(
            f"there is no model {name[:_MAX_SHOWN]!r}; there are {family.name!r}, '{family.name}@FRACTION' and "
            f"'{family.name}@VARIANT', where FRACTION is above 0 and at most 1 and VARIANT one of {sizes} and so on: "
            "see GET /v1/models",
            "model",
        ) from error


@router.get("/v1/models", summary="The family and its sizes, as models")
async def models(service: Service) -> ModelsOut:
    """The family's name, behind which a budget chooses, and the name of every served size."""
    family = service.family
    listed = [_out(service, model_name(family, size), size) for size in family.ladder]
    return ModelsOut(data=[_out(service, family.name, family.teacher), *listed])


@router.get("/v1/models/{model:path}", summary="One model", responses=_NOT_FOUND)
async def model(model: str, service: Service) -> ModelOut:
    """What a name stands for, where no budget says more."""
    family = service.family
    variant, budget = named(family, model, None)
    if variant is not None:
        size = family.find(variant)
        return _out(service, model_name(family, size), size)
    try:
        size = choose(family.ladder, budget) if budget else family.teacher
    except BudgetError as error:
        raise ModelNameError(str(error), "model") from error
    return _out(service, model, size)


def _out(service: ServiceState, name: str, size: Size) -> ModelOut:
    return ModelOut(
        id=name,
        created=service.started_s,
        variant=size.id,
        parameters=size.footprint.parameters,
        fraction=size.fraction,
        layers=size.layers,
        max_model_len=service.family.context_tokens,
    )
