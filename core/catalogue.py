"""Which models there are and which workers serve them, as the workers announce it.

``outfill:models`` keeps the card of every model that a worker ever announced, so that jobs can be accepted while workers restart;
``outfill:serving:{worker}`` lapses with its worker.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

import redis
import structlog
from pydantic import ValidationError

from api_schemas.models import EMBEDDED_MODELS, ModelCard, ModelInfo
from core.queue import lua

_log = structlog.get_logger(__name__)
_CARDS, _WORKERS = "outfill:models", "outfill:workers"


def _serving_key(worker: str) -> str:
    return f"outfill:serving:{worker}"


class Catalogue:
    """The models of this installation: those that come with it, and those that workers announced."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection
        self._announce = connection.register_script(lua("announce"))

    def announce(self, worker: str, cards: Sequence[ModelCard], ttl_s: int) -> None:
        """A worker serves these models, for ``ttl_s`` from now."""
        args: list[str | int] = [worker, ttl_s, json.dumps([card.id for card in cards])]
        for card in cards:
            args += [card.id, card.model_dump_json()]
        self._announce(keys=[_CARDS, _WORKERS, _serving_key(worker)], args=args)

    def withdraw(self, worker: str) -> None:
        """A worker stops."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(_serving_key(worker))
            pipe.srem(_WORKERS, worker)
            pipe.execute()

    def cards(self) -> dict[str, ModelCard]:
        """Every known model by name; what comes embedded stands first."""
        cards = {card.id: card for card in EMBEDDED_MODELS}
        announced = cast("dict[bytes, bytes]", self._redis.hgetall(_CARDS))
        for _, text in sorted(announced.items()):
            try:
                card = ModelCard.model_validate_json(text)
            except ValidationError:
                _log.warning("card_of_another_release", text=text[:200])  # a newer worker's; an older API does without
                continue
            cards[card.id] = card
        return cards

    def models(self) -> list[ModelInfo]:
        """Every known model with the live workers that serve it."""
        serving = self._serving()
        return [
            ModelInfo(card=card, workers=tuple(sorted(worker for worker, models in serving.items() if card.id in models)))
            for card in self.cards().values()
        ]

    def live_workers(self) -> list[str]:
        """Names of the workers that announced themselves of late."""
        return sorted(self._serving())

    def _serving(self) -> dict[str, list[str]]:
        names = sorted(name.decode() for name in cast("set[bytes]", self._redis.smembers(_WORKERS)))
        if not names:
            return {}
        found = cast("list[bytes | None]", self._redis.mget([_serving_key(name) for name in names]))
        gone = [name for name, text in zip(names, found, strict=True) if text is None]
        if gone:
            self._redis.srem(_WORKERS, *gone)
        return {name: json.loads(text) for name, text in zip(names, found, strict=True) if text is not None}
