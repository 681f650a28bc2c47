"""``/v1/models``: what is installed."""

from __future__ import annotations

from fastapi import APIRouter

from api_schemas.models import ModelList
from service.auth import ModelsReader
from service.bodies import NoQuery
from service.deps import Parts
from service.openapi import refusals

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", responses=refusals())
def page(caller: ModelsReader, parts: Parts, _: NoQuery) -> ModelList:  # noqa: ARG001 - the caller must have a key
    """Every model: what it does, its licence, and which live workers serve it."""
    return ModelList(items=tuple(parts.catalogue.models()))
