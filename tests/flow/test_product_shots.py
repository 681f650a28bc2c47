"""Product shots over HTTP: cut out, scaled, placed on white with a shadow and written below a limit, in one request."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import Api, pixels_of, png
from PIL import Image

SHOT: dict[str, Any] = {
    "operation": "replace_background",
    "image": "file:photo",
    "background": {"color": "#ffffff"},
    "shadow": {},
    "placement": {"fill": 0.85, "align": "center"},
    "output": {"format": "jpeg", "width": 2000, "height": 2000, "max_bytes": 1_000_000, "dpi": 300},
}
MASK = {"mask": "file:mask", "mask_options": {"polarity": "black_edits"}}


def bottle() -> tuple[bytes, bytes]:
    """A photo of 1800×1400 of a busy dark thing, 400×700, on a light ground, and its mask."""
    noise = np.random.default_rng(0).integers(0, 120, (175, 100, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    pixels, mask = np.full((1400, 1800, 3), (190, 200, 180), np.uint8), np.zeros((1400, 1800), np.uint8)
    pixels[300:1000, 900:1300], mask[300:1000, 900:1300] = noise, 255
    return png(pixels), png(mask)


def test_one_request_makes_a_product_shot(api: Api) -> None:
    """A JPEG of 2000×2000 below 1 MB: white to the corners, the product's box 85 % of it to a pixel and in the middle, a shadow under it, 300 dots per inch."""
    photo, mask = bottle()
    job = api.run({**SHOT, **MASK}, photo=photo, mask=mask)
    data, output = api.output(job), job["outputs"][0]
    assert len(data) == output["bytes"] <= 1_000_000
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size, picture.info["dpi"]) == ("JPEG", (2000, 2000), (300, 300))
    pixels = pixels_of(data).astype(int)
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    assert (pixels[:140] == 255).all()
    told = output["report"]["product"]
    assert told["bottom"] - told["top"] == pytest.approx(1700, abs=1)
    assert told["top"] + told["bottom"] == pytest.approx(2000, abs=2)
    assert told["left"] + told["right"] == pytest.approx(2000, abs=2)
    dark = pixels.max(axis=2) < 128  # the product is darker, its shadow is not
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    assert (rows[0], rows[-1] + 1) == pytest.approx((150, 1850), abs=1)
    assert (columns[0], columns[-1] + 1) == pytest.approx((1000 - 486, 1000 + 486), abs=1)
    assert pixels[1852:1870, 700:1300].mean() < 235
    report = output["report"]
    assert (report["resampled"], report["scale"]) == (True, pytest.approx(1700 / 700, abs=1e-3))
    assert report["preserved"]["kept_pixels"] == 400 * 700
    assert report["preserved"]["changed_pixels"] == 0
    assert report["verdict"]["reasons"] == ["scale 2.43 is 2 or more"]


def test_a_product_that_is_found_comes_where_it_should(api: Api, coffee: bytes) -> None:
    """Without a mask, too: the cup is found, stands in the middle, as large as four times its pixels allow, and the verdict says that it is soft."""
    job = api.run(SHOT, photo=coffee)
    pixels, output = pixels_of(api.output(job)), job["outputs"][0]
    box = output["report"]["product"]
    assert (output["width"], output["height"]) == (2000, 2000)
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    assert box["left"] + box["right"] == pytest.approx(2000, abs=4)
    assert box["right"] - box["left"] > 1500
    assert output["report"]["scale"] == 4
    assert output["report"]["verdict"]["level"] == "fail"


def test_a_limit_lowers_the_quality_and_says_so(api: Api) -> None:
    """Of a busy product at 92 the file is too large: the quality goes down until it fits, and the output tells it. Without room for that the job fails."""
    photo, mask = bottle()
    request = {**SHOT, **MASK}
    free = api.run({**request, "output": {**SHOT["output"], "max_bytes": 10**7}}, photo=photo, mask=mask)["outputs"][0]
    assert free["quality"] == 92
    limit = free["bytes"] * 2 // 3
    tight = api.run({**request, "output": {**SHOT["output"], "max_bytes": limit}}, photo=photo, mask=mask)
    assert len(api.output(tight)) <= limit
    assert 50 <= tight["outputs"][0]["quality"] < 92
    none = api.run({**request, "output": {**SHOT["output"], "max_bytes": 20_000}}, photo=photo, mask=mask)
    assert none["status"] == "failed"
    assert (none["error"]["code"], none["error"]["field"]) == ("output_too_large", "output.max_bytes")


def test_a_dry_run_tells_what_a_shot_would_be(api: Api, coffee: bytes) -> None:
    """The recipe has every default of the placement; an output beyond the limit of pixels is refused as the request would be."""
    told = api.post(SHOT, query={"dry_run": True}, photo=coffee).json()["recipe"]
    each = dict.fromkeys(("left", "right", "top", "bottom"), 0.075)
    assert told["placement"] == {"fill": 0.85, "align": "center", "margins": each}
    assert told["output"] == {**SHOT["output"], "layers": False}
    answer = api.post({**SHOT, "output": {"width": 16384, "height": 16384}}, query={"dry_run": True}, photo=coffee)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, "image_too_large", "output.width")


def test_usage_counts_the_pixels_of_the_output(api: Api, coffee: bytes) -> None:
    """A shot of four megapixels counts as four, however small its photo is."""

    def megapixels() -> float:
        used = api.http.get("/v1/usage").raise_for_status().json()
        return float(sum(day["megapixels"] for day in used["items"]))

    before = megapixels()
    api.output(api.run(SHOT, photo=coffee))
    assert megapixels() - before == pytest.approx(4)


def test_an_outpainting_by_its_ratio(api: Api, coffee: bytes) -> None:
    """The canvas is the smallest of the ratio that holds the photo, which stands unchanged at its anchor; then it is scaled to the width asked for."""
    photo = png(pixels_of(coffee)[100:300, 150:450, :3])
    request = {"operation": "outpaint", "image": "file:photo", "canvas": {"ratio": "4:5", "anchor": "top"}}
    whole = pixels_of(api.output(api.run(request, photo=photo)))
    assert whole.shape == (375, 300, 3)
    np.testing.assert_array_equal(whole[:200], pixels_of(photo)[..., :3])
    job = api.run({**request, "output": {"width": 160, "format": "webp", "quality": 80, "dpi": 72}}, photo=photo)
    with Image.open(io.BytesIO(api.output(job))) as picture:
        assert (picture.format, picture.size, picture.getexif()[0x011A]) == ("WEBP", (160, 200), 72)
    report = job["outputs"][0]["report"]
    assert (report["scale"], report["preserved"]["kept_pixels"]) == (pytest.approx(160 / 300, abs=1e-4), 300 * 200)


def test_a_shot_is_repeated_as_it_was(api: Api) -> None:
    """The repetition of a job has its placement and its output, to the byte."""
    photo, mask = bottle()
    first = api.run({**SHOT, **MASK, "output": {"width": 300, "height": 400}}, photo=photo, mask=mask)
    answer = api.http.post(f"/v1/jobs/{first['id']}/repeat", headers={"Prefer": "wait=60"}).json()
    assert answer["outputs"][0]["sha256"] == first["outputs"][0]["sha256"]
    assert answer["recipe"]["placement"] == first["recipe"]["placement"]


def test_the_layers_of_a_shot_make_it_up(api: Api) -> None:
    """Cut-out and fill are of the output's size and place, and the one over the other is the output."""
    photo, mask = bottle()
    job = api.run({**SHOT, **MASK, "output": {"width": 500, "height": 400, "layers": True}}, photo=photo, mask=mask)
    layers = {
        name: Image.open(io.BytesIO(httpx.get(url).raise_for_status().content)).convert("RGBA")
        for name, url in job["outputs"][0]["layers"].items()
    }
    assert {layer.size for layer in layers.values()} == {(500, 400)}
    made = np.asarray(Image.alpha_composite(layers["cutout"], layers["fill"]).convert("RGB"))
    np.testing.assert_array_equal(made, pixels_of(api.output(job)))
