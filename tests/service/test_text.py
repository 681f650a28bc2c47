"""Text is UTF-8, and nothing is decoded as anything else, whatever a request says."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from conftest import Api, png_header

ERASE = {"operation": "erase", "image": "file:photo", "mask": "file:mask"}
JOB = "/v1/jobs/job_01JD0000000000000000000000"
WITH_BODIES = [
    ("POST", "/v1/jobs", "multipart/form-data; boundary=b"),
    ("POST", "/v1/jobs", "application/json"),
    ("POST", f"{JOB}/repeat", "application/json"),
    ("POST", "/v1/uploads", "multipart/form-data; boundary=b"),
    ("POST", "/v1/webhooks", "application/json"),
    ("PATCH", "/v1/webhooks/whk_01JD0000000000000000000000", "application/json"),
    ("POST", "/v1/webhooks/whk_01JD0000000000000000000000/rotate", "application/json"),
]


def told(answer: httpx.Response) -> tuple[int, str, str | None]:
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    return answer.status_code, problem["code"], problem.get("field")


def part(name: str, content: bytes, *headers: str) -> bytes:
    """One part of a form, whose boundary is b."""
    head = "".join(f"{line}\r\n" for line in (f"Content-Disposition: form-data; {name}", *headers))
    return b"--b\r\n" + head.encode("latin-1") + b"\r\n" + content + b"\r\n"


def form(api: Api, *parts: bytes, path: str = "/v1/jobs", kind: str = "multipart/form-data; boundary=b") -> httpx.Response:
    """What is answered to a form of such parts."""
    return api.http.post(path, content=b"".join(parts) + b"--b--\r\n", headers={"content-type": kind})


@pytest.mark.parametrize(("method", "path", "kind"), WITH_BODIES)
@pytest.mark.parametrize(
    "charset", ["punycode", "utf-16", "latin-1", '"utf-7"', "UTF-8x", "idna", "unicode_escape", "utf-8; CHARSET=cp1252"]
)
def test_another_charset_is_refused_by_name(api: Api, method: str, path: str, kind: str, charset: str) -> None:
    """On every route with a body, before a byte of it is decoded."""
    answer = api.http.request(method, path, content=b"--b\r\n", headers={"content-type": f"{kind}; charset={charset}"})
    assert told(answer) == (422, "invalid_request", "Content-Type")


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "utf8", "us-ascii"])
def test_utf8_may_be_said(api: Api, charset: str) -> None:
    """In the ways that callers write it; US-ASCII is a part of it."""
    answer = api.http.post(f"{JOB}/repeat", content=b"{}", headers={"content-type": f"application/json; charset={charset}"})
    assert told(answer)[1] == "job_not_found"
    assert told(form(api, part('name="request"', b"{}"), kind=f"multipart/form-data; charset={charset}; boundary=b"))[2] == "operation"


def test_a_content_type_without_end_is_refused_by_name(api: Api) -> None:
    """Reading its parameters takes longer than its length."""
    answer = api.http.post("/v1/jobs", content=b"{}", headers={"content-type": "application/json;" + ";" * 5000})
    assert told(answer) == (422, "invalid_request", "Content-Type")


@pytest.mark.parametrize("name", ['name="request"', 'name="request"; filename="request.json"'])
def test_a_part_of_text_may_not_say_another_charset(api: Api, name: str) -> None:
    """Also where the text comes as a file."""
    answer = form(api, part(name, b"{}", "Content-Type: application/json; charset=utf-16"))
    assert told(answer) == (422, "invalid_request", "Content-Type")


def test_a_file_is_no_text(api: Api) -> None:
    """Whatever charset the part of a file says, its bytes are taken as they are."""
    file = part('name="file"; filename="x"', png_header(8, 8), "Content-Type: image/png; charset=binary")
    assert form(api, file, path="/v1/uploads").status_code == 201


def test_a_form_says_no_charset_in_a_part(api: Api) -> None:
    """The part ``_charset_`` of HTML is refused by name."""
    answer = form(api, part('name="_charset_"', b"utf-16"), part('name="request"', b"{}"))
    assert told(answer) == (422, "unknown_field", "_charset_")


@pytest.mark.parametrize(
    "text", [b"\xff\xfe{}", b'{"operation": "\xe9rase"}', json.dumps(ERASE).encode("utf-16"), b'{"a": "\xed\xa0\x80"}']
)
def test_text_that_is_not_utf8_is_refused_by_name(api: Api, text: bytes) -> None:
    """In a form and as a body it is not taken for another encoding: not by its first bytes, and not for Latin-1."""
    assert told(form(api, part('name="request"', text)))[0::2] == (422, "request")
    answer = api.http.post("/v1/jobs", content=text, headers={"content-type": "application/json"})
    assert told(answer)[:2] == (422, "invalid_json")
    if not text.isascii():
        assert "UTF-8" in answer.json()["detail"]


def test_the_name_of_a_part_is_utf8(api: Api) -> None:
    """One that is not is refused, and one that is comes back as it was sent."""
    answer = form(api, part('name="caf\xe9"; filename="x"', b"x"))
    assert told(answer) == (422, "invalid_request", "Content-Disposition")
    answer = form(api, part('name="caf\xc3\xa9"', b"x"))
    assert told(answer) == (422, "unknown_field", "café")


def test_a_prompt_in_any_language_arrives(api: Api) -> None:
    """What is UTF-8 stands in the recipe as it was written, from a form and from JSON."""
    prompt = "Sofa, café – 赤い花 🌷"
    request = {"operation": "inpaint", "model": "tiny", "image": "file:photo", "mask": "file:mask", "prompt": prompt}
    answer = api.post(request, photo=b"x", mask=b"y")
    assert told(answer)[1] == "not_an_image"
    answer = api.http.post("/v1/jobs", json={**request, "metadata": {"wörter": prompt}, "image": "x"})
    assert told(answer)[1] == "invalid_source"


@pytest.mark.parametrize("request_twice", [True, False])
def test_a_part_that_comes_twice_is_refused_by_name(api: Api, request_twice: bool) -> None:  # noqa: FBT001
    """One of them would be ignored."""
    name = "request" if request_twice else "photo"
    twice = part(f'name="{name}"; filename="x"', b"{}")
    assert told(form(api, twice, twice)) == (422, "invalid_request", name)


def test_json_is_mostly_images_or_it_is_short(api: Api) -> None:
    """Beside data URLs a request has a few texts: megabytes of them are refused before they are parsed, whatever they are."""
    for long in ("é" * 2**20, "\\u00e9" * 2**19, "http://" + "a" * 2**21):
        answer = api.http.post(
            "/v1/jobs", content=f'{{"operation": "erase", "image": "{long}"}}', headers={"content-type": "application/json"}
        )
        assert told(answer)[:2] == (422, "invalid_json")
    image = "data:image/png;base64," + "aGVsbG8\\/" * 2**19  # as PHP writes a slash
    content = f'{{"operation": "remove_background", "image": "{image}", "metadata": {{"ort": "Köln"}}}}'
    answer = api.http.post("/v1/jobs", content=content.encode(), headers={"content-type": "application/json"})
    assert told(answer)[2] == "image"
    assert told(answer)[1] in ("not_an_image", "invalid_source")
