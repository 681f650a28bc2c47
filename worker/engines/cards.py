"""The card of any model directory, by what lies in it, and whether its licence lets it be served. Read without torch."""

from __future__ import annotations

from pathlib import Path

from api_schemas.models import ModelCard
from worker.engines.diffusion.card import card_for
from worker.engines.edge_model import edge_card
from worker.engines.notes import UnsupportedModelError
from worker.engines.segmenter import segmenter_card
from worker.engines.weights import EDGE_CONFIG, MODEL_INDEX, SEGMENTER_FACTS

ALLOW_NONCOMMERCIAL = "OUTFILL_MODELS__ALLOW_NONCOMMERCIAL"


def read_card(path: Path, model_id: str) -> ModelCard:
    """The card of the model in directory ``path``: a diffusers pipeline, a segmenter or an edge model. Raises ``UnsupportedModelError``."""
    has_index, has_facts, has_config = ((path / name).is_file() for name in (MODEL_INDEX, SEGMENTER_FACTS, EDGE_CONFIG))
    if has_index and has_facts:
        raise UnsupportedModelError(f"{path}: it has {MODEL_INDEX} and {SEGMENTER_FACTS}, and a model is one of the two")
    if has_index:
        return card_for(path, model_id)
    if has_facts:
        return segmenter_card(path, model_id)
    if has_config:
        return edge_card(path, model_id)
    raise UnsupportedModelError(f"{path}: it has no {MODEL_INDEX}, no {SEGMENTER_FACTS} and no {EDGE_CONFIG}")


def why_not_served(card: ModelCard, *, allow_noncommercial: bool) -> str | None:
    """Why a model that could be served is not: its licence forbids commercial use. ``None`` where it is; one that nobody knows forbids nothing."""
    if allow_noncommercial or card.licence.commercial_use is not False:
        return None
    return f"its licence ({card.licence.id}) forbids commercial use; {ALLOW_NONCOMMERCIAL}=true says that yours is none"
