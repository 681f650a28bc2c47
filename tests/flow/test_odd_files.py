"""Every file of tests/odd_files.py through the running service: the documented result or the documented error, and always an end."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from conftest import ENDED, Api, eventually, png
from odd_files import DISPLAY_P3, RAMP, SECRET, Becomes, OddFile, Refused, odd_files, private_files, saved, tiff_file
from PIL import Image

from service.local import LocalStack
from worker.images.codec import into_space

FILES = odd_files()
PAPER = (12, 34, 56)
REPLACE = {
    "operation": "replace_background",
    "image": "file:photo",
    "mask": "file:mask",
    "mask_options": {"feather_px": 0},
    "background": {"color": "#0c2238"},
}
OUTPAINT = {"operation": "outpaint", "image": "file:photo", "expand": {"right": 2}}

Pixels = npt.NDArray[np.uint8]


def edge_mask(height: int, width: int) -> Pixels:
    """The last column, or of a single column the last row, is background."""
    mask = np.zeros((height, width), np.uint8)
    mask[(slice(None), -1) if width > 1 else -1] = 255
    return mask


def is_outpainted(outcome: Becomes | Refused) -> bool:
    """What is transparent stays so when it is outpainted; and a single pixel has no room for a mask."""
    return isinstance(outcome, Becomes) and (outcome.alpha is not None or outcome.pixels.shape[:2] == (1, 1))


def submit(api: Api, file: OddFile) -> httpx.Response:
    """The file as the image of a job."""
    if is_outpainted(file.outcome):
        return api.post(OUTPAINT, photo=file.data)
    height, width = file.outcome.pixels.shape[:2] if isinstance(file.outcome, Becomes) else RAMP.shape[:2]
    if isinstance(file.outcome, Refused) and file.outcome.by == "job":  # the size that the header declares
        with Image.open(io.BytesIO(file.data)) as image:
            width, height = image.size
    return api.post(REPLACE, photo=file.data, mask=png(edge_mask(height, width)))


@pytest.fixture(scope="module")
def caller(stack: LocalStack) -> Iterator[Api]:
    """A caller of the running service, for all tests here."""
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {stack.api_key}"}, timeout=70) as http:
        yield Api(http)


@pytest.fixture(scope="module")
def answers(caller: Api) -> dict[str, httpx.Response]:
    """The answer to each file's request. All are sent before any job is waited for."""
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(FILES, pool.map(lambda file: submit(caller, file), FILES.values()), strict=True))


def end_of(api: Api, answer: httpx.Response) -> dict[str, Any]:
    """The ended job of an accepted request."""
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = eventually(lambda: (job := api.read(answer.json()["id"]))["status"] in ENDED and job, timeout_s=120)
    return found


@pytest.mark.parametrize("name", [name for name, file in FILES.items() if isinstance(file.outcome, Refused)])
def test_a_bad_file_is_refused_as_documented(caller: Api, answers: dict[str, httpx.Response], name: str) -> None:
    """A file that cannot be used is refused with its documented code: at once by what its header shows, else by its job, in one attempt."""
    outcome, answer = FILES[name].outcome, answers[name]
    assert isinstance(outcome, Refused)
    if outcome.by == "request":
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, outcome.code, "image"), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        return
    job = end_of(caller, answer)
    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert (job["error"]["code"], job["error"]["field"]) == (outcome.code, "image")


@pytest.mark.parametrize("name", [name for name, file in FILES.items() if isinstance(file.outcome, Becomes)])
def test_an_odd_file_becomes_what_is_documented(caller: Api, answers: dict[str, httpx.Response], name: str) -> None:
    """A file that can be used gives the documented size, pixels, alpha, profile and resolution, and nothing of its other metadata."""
    outcome = FILES[name].outcome
    assert isinstance(outcome, Becomes)
    job = end_of(caller, answers[name])
    with Image.open(io.BytesIO(caller.output(job))) as output:
        output.load()
        assert output.info.get("icc_profile") == outcome.icc
        assert output.info.get("dpi") == (outcome.dpi and pytest.approx(outcome.dpi, abs=0.02))
        assert set(output.info) <= {"icc_profile", "dpi"}
        got = np.asarray(output)
    height, width = outcome.pixels.shape[:2]
    kept = np.ones((height, width), bool)
    if is_outpainted(outcome):
        assert got.shape[:2] == (height, width + 2)
    else:
        assert got.shape[:2] == (height, width)
        kept = edge_mask(height, width) == 0
        # The colour that was asked for is sRGB; the output is in the photo's space.
        seen = into_space(np.ascontiguousarray(got[~kept][None]), outcome.icc, None)
        assert np.abs(seen[0].astype(int) - PAPER).max() <= (0 if outcome.icc is None else 2)
    difference = np.abs(got[:height, :width, :3].astype(int) - outcome.pixels)[kept]
    assert int(difference.max()) <= outcome.off_by
    assert got.shape[2] == (3 if outcome.alpha is None else 4)
    if outcome.alpha is not None:
        assert np.array_equal(got[:height, :width, 3], outcome.alpha)
    assert job["outputs"][0]["report"]["preserved"]["changed_pixels"] == 0


SPOT = np.zeros((24, 32), np.uint8)
SPOT[5:12, 8:20] = 255
DEEP = SPOT.astype(np.uint16) * 257
MASKS: dict[str, tuple[bytes, dict[str, Any], tuple[str, str] | None]] = {
    "png_grey_16": (saved(Image.fromarray(DEEP)), {}, None),
    "png_1_bit": (saved(Image.fromarray(SPOT > 0)), {}, None),
    "png_palette": (saved(Image.fromarray(SPOT).convert("P")), {}, None),
    "tiff_grey_16_white_is_zero": (tiff_file((32, 24), [16], (65535 - DEEP).tobytes(), photometric=0), {}, None),
    "tiff_grey_32_unsigned": (tiff_file((32, 24), [32], (DEEP.astype("<u4") * 65537).tobytes()), {}, None),
    "bmp_inverted": (saved(Image.fromarray(255 - SPOT), "BMP"), {"polarity": "black_edits"}, None),
    "png_colour_key": (saved(Image.fromarray(SPOT), transparency=255), {"polarity": "alpha"}, None),
    "empty_12_bit": (tiff_file((32, 24), [12], bytes(32 * 24 * 3 // 2)), {}, ("request", "mask_empty")),
    "full_colour_key": (saved(Image.fromarray(SPOT * 0), transparency=0), {"polarity": "alpha"}, ("request", "mask_full")),
    "empty_png_grey_16": (saved(Image.fromarray(DEEP * 0)), {}, ("request", "mask_empty")),
    "text": (b"hello", {}, ("request", "not_an_image")),
    "tiff_float": (saved(Image.fromarray(SPOT.astype(np.float32)), "TIFF"), {}, ("request", "unsupported_format")),
    "gif_animated": (FILES["gif_of_two_frames"].data, {}, ("request", "animated_image")),
    "png_half": (png(np.random.default_rng(0).integers(0, 256, (24, 32), np.uint8))[:500], {}, ("job", "image_corrupt")),
}


@pytest.fixture(scope="module")
def mask_answers(caller: Api) -> dict[str, httpx.Response]:
    """The answer to each mask's request."""
    return {
        name: caller.post({**REPLACE, "mask_options": {"feather_px": 0, **options}}, photo=png(RAMP), mask=data)
        for name, (data, options, _) in MASKS.items()
    }


@pytest.mark.parametrize("name", MASKS)
def test_an_odd_mask_is_read_or_refused_as_documented(caller: Api, mask_answers: dict[str, httpx.Response], name: str) -> None:
    """A mask in any accepted format marks what it shows, and a bad one is refused with its code and the field ``mask``."""
    answer, refused = mask_answers[name], MASKS[name][2]
    if refused is not None and refused[0] == "request":
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, refused[1], "mask"), answer.text
        return
    job = end_of(caller, answer)
    if refused is not None:
        assert (job["status"], job["error"]["code"], job["error"]["field"]) == ("failed", refused[1], "mask")
        return
    with Image.open(io.BytesIO(caller.output(job))) as output:
        assert np.array_equal(np.asarray(output), np.where(SPOT[..., None] > 0, PAPER, RAMP))


@pytest.fixture(scope="module")
def private_answers(caller: Api) -> dict[tuple[str, str], httpx.Response]:
    """The answers for every format in and out."""
    mask = png(edge_mask(*RAMP.shape[:2]))
    return {
        (kind, wanted): caller.post({**REPLACE, "output": {"format": wanted}}, photo=data, mask=mask)
        for kind, data in private_files().items()
        for wanted in ("png", "jpeg", "webp")
    }


@pytest.mark.parametrize("wanted", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif", "tiff"])
def test_private_metadata_never_leaves(caller: Api, private_answers: dict[tuple[str, str], httpx.Response], kind: str, wanted: str) -> None:
    """No EXIF, position, XMP, IPTC, comment or text of a file is in an output of any format; its profile is, byte for byte."""
    assert SECRET in private_files()[kind]
    data = caller.output(end_of(caller, private_answers[kind, wanted]))
    assert SECRET not in data
    with Image.open(io.BytesIO(data)) as output:
        output.load()
        assert output.info["icc_profile"] == DISPLAY_P3
        assert not {"exif", "xmp", "photoshop", "comment", "XML:com.adobe.xmp"} & set(output.info)
        assert not output.getexif()
