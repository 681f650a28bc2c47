"""What is true of a scene: the renderer states it, captions are worded from it, and a judge may be trained on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """A wall or a surface: of which material, in which colour or tone (a key of ``NAMED``, ``WOODS``, …), in which shade of it."""

    material: str
    tone: str = ""
    shade: str = ""


@dataclass(frozen=True)
class Facts:
    """``kind``: paper, gradient, podium, room or flat. ``light``: soft, window, leaves, sun, spot, dark, bright; ``warmth``: "", warm, cool."""

    kind: str
    wall: Part | None = None
    surface: Part | None = None
    light: str = "soft"
    warmth: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Facts:
        parts = {name: Part(**values[name]) if values[name] else None for name in ("wall", "surface")}
        return cls(**{**values, **parts})
