"""Decodes inputs in processes of their own, which are ended where a file takes more than it may, or a job is not wanted any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from api_schemas.requests import MaskOptions
from imagefiles import bounds
from imagefiles.sandbox import Allowance, Answer, Call, Pieces, Sandbox, Wanted
from worker.images import codec
from worker.images.codec import Frame, Picture

if TYPE_CHECKING:
    from core.settings import Limits

Mask = npt.NDArray[np.uint8]
_PIXELS_BYTES = 16
"""Bytes per pixel that a decoded picture takes on its way into arrays."""


class Decoder(Protocol):
    """Turns files into pictures, by the rules of ``worker.images.codec``."""

    def decode(self, data: bytes, *, max_pixels: int) -> Frame:
        """The picture in a file."""

    def decode_mask(self, data: bytes, options: MaskOptions, *, max_pixels: int) -> Mask:
        """The strength of the edit at each pixel."""

    def decode_product_mask(self, data: bytes, *, max_pixels: int) -> Mask:
        """How much of the product is in each pixel."""


class SandboxedDecoder:
    """Decodes in a sandbox, for as long as ``wanted`` does not raise. Raises ``ImageTooCostly``, and what the codec raises."""

    def __init__(
        self, sandbox: Sandbox, limits: Limits, wanted: Wanted, waiting: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        """``waiting`` is entered while others have the sandbox."""
        self._sandbox, self._limits, self._wanted, self._waiting = sandbox, limits, wanted, waiting

    def decode(self, data: bytes, *, max_pixels: int) -> Frame:
        """The picture in a file."""
        answer = self._call("decode", {}, data, max_pixels)
        told, (pixels, *more) = answer.value, answer.buffers
        height, width = told["size"]
        dpi = told["dpi"] and (float(told["dpi"][0]), float(told["dpi"][1]))
        alpha = np.frombuffer(more.pop(0), np.uint8).reshape(height, width) if told["has_alpha"] else None
        icc = bytes(more.pop(0)) if told["has_icc"] else None
        return Frame(np.frombuffer(pixels, np.uint8).reshape(height, width, 3), alpha, icc, dpi)

    def decode_mask(self, data: bytes, options: MaskOptions, *, max_pixels: int) -> Mask:
        """The strength of the edit at each pixel."""
        return self._mask("decode_mask", {"options": options.model_dump(mode="json")}, data, max_pixels)

    def decode_product_mask(self, data: bytes, *, max_pixels: int) -> Mask:
        """How much of the product is in each pixel."""
        return self._mask("decode_product_mask", {}, data, max_pixels)

    def _mask(self, name: str, asked: Mapping[str, Any], data: bytes, max_pixels: int) -> Mask:
        answer = self._call(name, asked, data, max_pixels)
        return np.frombuffer(answer.buffers[0], np.uint8).reshape(answer.value["size"])

    def _call(self, name: str, asked: Mapping[str, Any], data: bytes, max_pixels: int) -> Answer:
        bounded = bounds.check(data, max_pixels)
        memory = bounded.decoded_bytes + _PIXELS_BYTES * bounded.pixels + self._limits.decoding_slack_bytes
        allowance = Allowance(self._limits.decoding_s, memory)
        return self._sandbox.call(name, {**asked, "max_pixels": max_pixels}, [data], allowance, self._wanted, waiting=self._waiting)


def _decode(asked: Any, files: list[bytes]) -> tuple[Any, Sequence[Any]]:
    picture = codec.read(files[0], max_pixels=asked["max_pixels"])
    height, width, colours = _colours(picture)
    told = {"size": [height, width], "dpi": picture.dpi, "has_alpha": picture.alpha is not None, "has_icc": picture.icc is not None}
    alpha = () if picture.alpha is None else (np.ascontiguousarray(picture.alpha),)
    return told, [colours, *alpha, *(() if picture.icc is None else (picture.icc,))]


def _colours(picture: Picture) -> tuple[int, int, Any]:
    """Height, width, and the pixels: from Pillow's memory into what is sent, without a copy of their own."""
    colours = picture.colours
    if isinstance(colours, np.ndarray):
        return colours.shape[0], colours.shape[1], np.ascontiguousarray(colours)
    return colours.height, colours.width, Pieces(3 * colours.height * colours.width, codec.bands(colours))


def _decode_mask(asked: Any, files: list[bytes]) -> tuple[Any, Sequence[Any]]:
    return _told(codec.decode_mask(files[0], MaskOptions.model_validate(asked["options"]), max_pixels=asked["max_pixels"]))


def _decode_product_mask(asked: Any, files: list[bytes]) -> tuple[Any, Sequence[Any]]:
    return _told(codec.decode_product_mask(files[0], max_pixels=asked["max_pixels"]))


def _told(mask: Mask) -> tuple[Any, Sequence[Any]]:
    return {"size": list(mask.shape)}, [np.ascontiguousarray(mask)]


CALLS: Mapping[str, Call] = {"decode": _decode, "decode_mask": _decode_mask, "decode_product_mask": _decode_product_mask}
"""Of the sandbox."""
