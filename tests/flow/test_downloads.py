"""What a downloaded output is called."""

from __future__ import annotations

import re
from urllib.parse import unquote

import httpx
import pytest
from conftest import Api, box_mask

from api_schemas.downloads import disposition, download_name
from api_schemas.requests import ImageFormat


def saved_as(url: str) -> str | None:
    """The name under which a client that knows RFC 8187 saves what is at ``url``."""
    said = httpx.get(url).raise_for_status().headers.get("content-disposition")
    if said is None:
        return None
    kind, plain, encoded = re.fullmatch(r'(\w+); filename="([^"\\]*)"(?:; filename\*=UTF-8\'\'(\S+))?', said).groups()  # type: ignore[union-attr]
    assert kind == "attachment"
    return unquote(encoded, errors="strict") if encoded else plain


def test_a_download_has_the_name_that_the_request_gives(api: Api, coffee: bytes) -> None:
    """Outputs and layers are saved under output.filename, with the ending of what they are and a number where there are several."""
    mask, _ = box_mask(coffee)
    output = {"filename": "Schuh „17“ 100%.HEIC", "layers": True, "format": "jpg"}
    request = {"operation": "erase", "image": "file:photo", "mask": "file:mask", "num_images": 2, "output": output}
    job = api.run(request, photo=coffee, mask=mask)
    for number, made in enumerate(job["outputs"], 1):
        assert saved_as(made["url"]) == f"Schuh „17“ 100%-{number}.jpg"
        assert saved_as(made["layers"]["fill"]) == f"Schuh „17“ 100%-{number}.fill.png"
    assert "filename" not in job["recipe"]["output"]
    again = api.http.post(f"/v1/jobs/{job['id']}/repeat", json={"num_images": 1}, headers={"Prefer": "wait=60"}).json()
    assert saved_as(again["outputs"][0]["url"]) == "Schuh „17“ 100%.jpg"


def test_who_gives_no_name_gets_none(api: Api, coffee: bytes) -> None:
    """Without a filename the URL says nothing of one, and is shown rather than saved."""
    job = api.run({"operation": "remove_background", "image": "file:photo"}, photo=coffee)
    assert saved_as(job["outputs"][0]["url"]) is None


@pytest.mark.parametrize(
    ("stem", "more", "name"),
    [
        ("shoe", {}, "shoe.png"),
        ("shoe.PNG", {}, "shoe.png"),
        ("shoe.v2", {"number": 0}, "shoe.v2-1.png"),
        ("shoe.jpeg", {"number": 1, "layer": "product_mask"}, "shoe-2.product_mask.png"),
        (".jpg", {}, ".jpg.png"),
    ],
)
def test_the_ending_of_an_image_gives_way_to_that_of_the_output(stem: str, more: dict[str, object], name: str) -> None:
    """Other endings are part of the name."""
    assert download_name(stem, ImageFormat.PNG, **more) == name  # type: ignore[arg-type]


def test_a_name_cannot_end_its_header() -> None:
    """Quotes, semicolons and what is not ASCII stand in the encoded form alone."""
    assert disposition('a"; filename=evil.exe; é') == (
        "attachment; filename=\"a__ filename=evil.exe_ _\"; filename*=UTF-8''a%22%3B%20filename%3Devil.exe%3B%20%C3%A9"
    )
