"""What decoding and encoding a photo of 24 megapixels costs: ``python -m scripts.bench_codecs``, and build/bench/codecs.json.

The codec's own choices against Pillow and OpenCV (and pyvips, where it is installed), each in one thread, the better of two. Figures are
ratios from one run: time to what the codec does, so that 0.5 is twice as fast as the codec; bytes likewise.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.resources import files
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.table import Table

from api_schemas.requests import ImageFormat, OutputOptions
from scripts.figures import exit_status, figure, timed, write_figures
from worker.images.codec import Frame, decode, encode

SIZE = (6000, 4000)
RUNS = 2
LIMITS = {"png_time_over_pillow_level_3": 0.77, "png_bytes_over_pillow_level_3": 1.02, "webp_time_over_quality_40": 0.9}
"""A codec other than Pillow stays only where it is more than 1.3 times as fast."""

Pixels = npt.NDArray[np.uint8]
Row = tuple[str, str, float, int]
"""What is done, by what, seconds, bytes."""


def main() -> int:
    """Run, print, write; 1 if a limit does not hold."""
    os.environ["VIPS_CONCURRENCY"] = "1"
    cv2.setNumThreads(1)
    pixels = _photo()
    rows = [*_encoders(pixels), *_decoders(pixels)]
    took = {(job, by): (seconds, size) for job, by, seconds, size in rows}
    own, pillow = took["encode png", "codec"], took["encode png", "Pillow, level 3"]
    webp, slower = took["encode webp lossless", "codec"], took["encode webp lossless", "Pillow, quality 40"]
    values = {
        "png_time_over_pillow_level_3": own[0] / pillow[0],
        "png_bytes_over_pillow_level_3": own[1] / pillow[1],
        "webp_time_over_quality_40": webp[0] / slower[0],
    }
    figures = {name: figure(value, LIMITS[name]) for name, value in values.items()}
    for (job, by), (seconds, size) in took.items():
        if by != "codec":
            base = took[job, "codec"]
            figures[f"{job}: {by}, time"] = {"value": round(seconds / base[0], 3), "limit": None, "holds": True}
            figures[f"{job}: {by}, bytes"] = {"value": round(size / base[1], 3), "limit": None, "holds": True}
    _print(took)
    write_figures("codecs", figures)
    return exit_status(figures)


def _photo() -> Pixels:
    with Image.open(str(files("skimage.data") / "coffee.png")) as picture:
        large = np.asarray(picture.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS))
    noise = np.random.default_rng(0).normal(0, 2, large.shape).astype(np.float32)
    return np.clip(np.rint(large + noise), 0, 255).astype(np.uint8)


def _best(work: Callable[[], Any]) -> float:
    return min(timed(work) for _ in range(RUNS))


def _pillow(pixels: Pixels, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _opencv(pixels: Pixels, extension: str, *options: int) -> bytes:
    return cv2.imencode(extension, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _encoders(pixels: Pixels) -> list[Row]:
    rle, huffman, default = cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT
    level, strategy, which = cv2.IMWRITE_PNG_COMPRESSION, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_FILTER
    jpeg = (cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    lossless = {"lossless": True, "method": 2, "exact": True}
    frame, png, webp = Frame(pixels), "encode png", "encode webp lossless"
    work: list[tuple[str, str, Callable[[], bytes]]] = [
        (png, "codec", lambda: encode(frame, OutputOptions(format=ImageFormat.PNG))),
        (png, "Pillow, level 1", lambda: _pillow(pixels, "PNG", compress_level=1)),
        (png, "Pillow, level 3", lambda: _pillow(pixels, "PNG", compress_level=3)),
        (png, "Pillow, level 1, RLE", lambda: _pillow(pixels, "PNG", compress_level=1, compress_type=3)),
        (png, "Pillow, level 1, Huffman", lambda: _pillow(pixels, "PNG", compress_level=1, compress_type=2)),
        (png, "OpenCV, level 1, RLE, Up", lambda: _opencv(pixels, ".png", level, 1, strategy, rle, which, cv2.IMWRITE_PNG_FILTER_UP)),
        (png, "OpenCV, level 1, RLE, Average", lambda: _opencv(pixels, ".png", level, 1, strategy, rle, which, cv2.IMWRITE_PNG_FILTER_AVG)),
        (png, "OpenCV, level 1, RLE, all", lambda: _opencv(pixels, ".png", level, 1, strategy, rle, which, cv2.IMWRITE_PNG_ALL_FILTERS)),
        (png, "OpenCV, level 1, Paeth", lambda: _opencv(pixels, ".png", level, 1, strategy, default, which, cv2.IMWRITE_PNG_FILTER_PAETH)),
        (png, "OpenCV, level 3, Paeth", lambda: _opencv(pixels, ".png", level, 3, strategy, default, which, cv2.IMWRITE_PNG_FILTER_PAETH)),
        (
            png,
            "OpenCV, level 1, Huffman, Paeth",
            lambda: _opencv(pixels, ".png", level, 1, strategy, huffman, which, cv2.IMWRITE_PNG_FILTER_PAETH),
        ),
        ("encode jpeg", "codec", lambda: encode(frame, OutputOptions(format=ImageFormat.JPEG))),
        ("encode jpeg", "OpenCV", lambda: _opencv(pixels, ".jpg", *jpeg)),
        (webp, "codec", lambda: encode(frame, OutputOptions(format=ImageFormat.WEBP))),
        (webp, "Pillow, quality 40", lambda: _pillow(pixels, "WEBP", quality=40, **lossless)),
    ]
    if (vips := _vips()) is not None:
        picture = vips.Image.new_from_array(pixels)
        work += [
            (png, "pyvips, level 1, Paeth", lambda: picture.pngsave_buffer(compression=1, filter="paeth")),
            (png, "pyvips, level 3, Paeth", lambda: picture.pngsave_buffer(compression=3, filter="paeth")),
            ("encode jpeg", "pyvips", lambda: picture.jpegsave_buffer(Q=92, subsample_mode="off")),
            (webp, "pyvips", lambda: picture.webpsave_buffer(lossless=True, exact=True, Q=20, effort=2)),
        ]
    rows: list[Row] = []
    for job, by, encoder in work:
        sizes: list[int] = []
        rows.append((job, by, _best(lambda encoder=encoder, sizes=sizes: sizes.append(len(encoder()))), sizes[0]))  # type: ignore[misc]
    return rows


def _decoders(pixels: Pixels) -> list[Row]:
    rows: list[Row] = []
    vips = _vips()
    for kind in ImageFormat:
        data = encode(Frame(pixels), OutputOptions(format=kind))
        raw = np.frombuffer(data, np.uint8)
        work: dict[str, Callable[[], object]] = {
            "codec": partial(decode, data, max_pixels=pixels.size),
            "OpenCV": partial(cv2.imdecode, raw, cv2.IMREAD_COLOR_RGB),
        }
        if vips is not None:
            work["pyvips"] = partial(_by_vips, vips, data)
        rows += [(f"decode {kind.value}", by, _best(decoder), len(data)) for by, decoder in work.items()]
    return rows


def _by_vips(vips: Any, data: bytes) -> object:
    return vips.Image.new_from_buffer(data, "").numpy()


def _vips() -> Any:
    try:
        return import_module("pyvips")
    except ImportError:
        return None


def _print(took: dict[tuple[str, str], tuple[float, int]]) -> None:
    table = Table("what", "by", "seconds", "MB", "time : codec", "bytes : codec")
    for (job, by), (seconds, size) in took.items():
        base = took[job, "codec"]
        table.add_row(job, by, f"{seconds:.2f}", f"{size / 1e6:.1f}", f"{seconds / base[0]:.2f}", f"{size / base[1]:.2f}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
