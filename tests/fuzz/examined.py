"""A file through the readers of the API and of the worker, as a request would bring it, and what that costs."""

from __future__ import annotations

import asyncio
import traceback
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import file_grammar as parts
import numpy as np
from fastapi import FastAPI
from odd_files import chunk, odd_files

from api_schemas.errors import OutfillError
from api_schemas.requests import MaskOptions
from core import logging
from core.settings import Settings
from service import intake, problems
from service.bodies import Body
from service.intake import Header
from worker.images import codec

from .files import Role
from .meter import MIB, Meter

CPU_S = 1.0
"""What a file may take in all: the API's check and the worker's decoding. Of a picture of more than ``MEGAPIXELS`` each so many."""
MEGAPIXELS = 16
SLOW_MACHINE = 4.0
"""Times that CPU for a file in `make test`: the bound itself is for `make fuzz-files` to hold, as processors differ. Hostile files took many times more."""
MEMORY_MIB = 256
"""What a file may take at its peak, beyond its pixels at ``PIXEL_BYTES``."""
PIXEL_BYTES = 24
"""What decoding the dearest honest file takes for each: a WebP with an alpha has two canvases, Pillow's picture and copies of it."""
MAX_PIXELS = Settings.model_fields["limits"].default.max_image_pixels
MASKED_PIXELS = 32_000_000
"""Above it a file is not tried as a mask: the image for it would take as long."""
GROWTH_PX = 4
_SURELY_S = 2.0


@dataclass(frozen=True)
class Cost:
    """What became of a file and what it took."""

    cpu_s: float
    memory_mib: float
    """At the peak, above what was there before."""
    pixels: int = 0
    """As its header declares, if it was accepted."""
    verdict: str = ""
    fault: str | None = None
    """An error that is none of ours."""

    @property
    def cpu_share(self) -> float:
        """Of what it may take."""
        return self.cpu_s / (CPU_S * max(1.0, self.pixels / (MEGAPIXELS * 1e6)))

    @property
    def beyond_mib(self) -> float:
        """Memory beyond its pixels."""
        return self.memory_mib - self.pixels * PIXEL_BYTES / MIB

    @property
    def is_bounded(self) -> bool:
        """Whether it holds to all bounds."""
        return self.is_within(1.0)

    def is_within(self, cpu_share: float) -> bool:
        """Whether it holds to all bounds, CPU to so many times its own."""
        return self.fault is None and self.cpu_share <= cpu_share and self.beyond_mib <= MEMORY_MIB

    def told(self) -> str:
        """In one line."""
        return f"{self.cpu_s:.2f} s, {self.beyond_mib:.0f} MiB beyond {self.pixels / 1e6:.1f} megapixels, {self.verdict}"


def examine(data: bytes, role: Role, content_type: str = "") -> Cost:
    """Try a file. One that is over the bounds is tried once more, since what else the machine does counts too; the better counts."""
    first = _examined(data, role, content_type)
    if first.is_bounded or first.fault is not None or first.cpu_s > _SURELY_S:
        return first
    second = _examined(data, role, content_type)
    return replace(first, cpu_s=min(first.cpu_s, second.cpu_s), memory_mib=min(first.memory_mib, second.memory_mib))


def _examined(data: bytes, role: Role, content_type: str) -> Cost:
    meter, pixels, verdict, fault = Meter(), 0, "", None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow tells of what is broken and goes on
        try:
            if role == "form":
                with meter:
                    verdict = str(_posted(data, content_type))
            else:
                header = _as_upload(meter, data)
                pixels = header.width * header.height
                verdict = _WAYS[role](meter, data, header)
        except OutfillError as error:
            verdict = error.code
        except (Exception, MemoryError):
            fault = traceback.format_exc()
    return Cost(meter.cpu_s, meter.memory_mib, pixels, verdict, fault)


def _as_upload(meter: Meter, data: bytes) -> Header:
    with meter:
        return intake.read_header(data, MAX_PIXELS)


def _image(meter: Meter, data: bytes, _: Header) -> str:
    with meter:
        codec.decode(data, max_pixels=MAX_PIXELS)
    return "decoded"


def _background(meter: Meter, data: bytes, _: Header) -> str:
    with meter:
        frame = codec.decode(data, max_pixels=MAX_PIXELS)
    with meter:
        codec.into_space(frame.pixels[:64, :64], frame.icc, None)
        codec.into_space(np.full((1, 1, 3), 255, np.uint8), None, frame.icc)
    return "decoded" if frame.icc is None else "converted"


def _mask(meter: Meter, data: bytes, header: Header) -> str:
    if header.width * header.height > MASKED_PIXELS:
        return _image(meter, data, header)
    blobs = {"image": _blank(header.width, header.height), "mask": data}
    with meter:
        codec.decode_mask(data, MaskOptions(), max_pixels=MAX_PIXELS)
    with meter:
        intake.check(blobs, MaskOptions(), MAX_PIXELS, GROWTH_PX)
    return "a mask"


def _product_mask(meter: Meter, data: bytes, header: Header) -> str:
    if header.width * header.height > MASKED_PIXELS:
        return _image(meter, data, header)
    blobs = {"image": _blank(header.width, header.height), "product_mask": data}
    with meter:
        codec.decode_product_mask(data, max_pixels=MAX_PIXELS)
    with meter:
        intake.check(blobs, None, MAX_PIXELS)
    return "a mask"


_WAYS: dict[Role, Callable[[Meter, bytes, Header], str]] = {
    "image": _image,
    "background": _background,
    "mask": _mask,
    "product_mask": _product_mask,
}


@cache
def _blank(width: int, height: int) -> bytes:
    """A black picture, which a mask of its size may come with."""
    rows = zlib.compress(parts.png_rows(width, height, 1, 0), 1)
    return parts.png(parts.ihdr(width, height, 1, 0), chunk(b"IDAT", rows))


# ---- Forms


@cache
def _form_reader() -> tuple[Any, asyncio.Runner]:
    """An application of one route that reads a job's body, and a loop that it runs in."""
    app = FastAPI()

    async def reading(_tenant: str, _size: int, call: Callable[[], Any]) -> Any:
        return call()

    app.state.services = SimpleNamespace(settings=Settings(), reading=reading)
    problems.install(app, [])

    @app.post("/")
    async def read(body: Body) -> str:
        return body.take().request.operation

    return app, asyncio.Runner()


def _posted(data: bytes, content_type: str) -> int:
    """The status that a form is answered with."""
    app, runner = _form_reader()
    statuses: list[int] = []
    pieces = [data[at : at + 2**16] for at in range(0, len(data), 2**16)] or [b""]
    pieces.reverse()

    async def receive() -> dict[str, Any]:
        piece = pieces.pop() if pieces else b""
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"content-type", content_type.encode("latin-1", "replace")), (b"content-length", str(len(data)).encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
        "state": {"tenant": "t"},
    }
    runner.run(app(scope, receive, send))
    return statuses[0]


def warm_up() -> None:
    """Load what is loaded on the first use, so that no file pays for it, and write logs as the API does."""
    logging.configure(Settings().logging, "fuzz")
    for name in (
        "png_display_p3",
        "jpeg_cmyk_profile",
        "webp_display_p3",
        "avif_display_p3",
        "tiff_lab",
        "bmp_8_rle",
        "gif_still",
        "tiff_of_jpeg",
    ):
        _examined(odd_files()[name].data, "background", "")
    _examined(odd_files()["png_grey"].data, "mask", "")
    _examined(b"--XB--", "form", "multipart/form-data; boundary=XB")
