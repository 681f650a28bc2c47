"""Data URLs are read in pieces, and mean the same as in one."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator

import pytest

from api_schemas.errors import InvalidSource
from service import bodies, sources
from service.idempotency import job_digest

HEAD = "data:image/png;base64,"


def in_pieces(text: str, size: int) -> Iterator[bytes]:
    """A text in pieces of ``size`` letters."""
    yield from (text[at : at + size].encode() for at in range(0, len(text), size))


@pytest.mark.parametrize("length", [0, 1, 2, 3, 1000, 1001, 1002])
@pytest.mark.parametrize("size", [32, 33, 34, 35, 5000])
def test_bytes_come_out_whatever_the_pieces(length: int, size: int) -> None:
    """Groups of four letters may be cut anywhere, paddings too."""
    data = os.urandom(length)
    assert sources._decoded(in_pieces(HEAD + base64.b64encode(data).decode(), size)) == data


@pytest.mark.parametrize("size", [26, 27, 28, 29, 500])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("AAAA=AAA", "base64"),
        ("AAA", "base64"),
        ("AAAA" * 20 + "A", "base64"),
        ("AAA=" + "AAAA" * 20, "base64|goes on"),
        ("AA==" * 20, "base64|goes on"),
        ("AAAA!AAA", "base64"),
        ("AAAA" * 20 + "ÄAAA", "base64"),
        ("AAAA\nAAAA", "base64"),
    ],
)
def test_bad_base64_is_refused_whatever_the_pieces(text: str, why: str, size: int) -> None:
    """Nothing is skipped: no line break, no foreign letter, nothing behind the end."""
    with pytest.raises(InvalidSource, match=why):
        sources._decoded(in_pieces(HEAD + text, size))


def test_another_kind_of_data_url_is_refused() -> None:
    """Images in base64 alone are read."""
    for text in ("data:text/plain;base64,AAAA", "data:image/png,AAAA", "data:", "data:image/png;base64" + "x" * 2**17):
        with pytest.raises(InvalidSource, match="must begin with data:image/TYPE;base64,"):
            sources._decoded(in_pieces(text, 2**16))


@pytest.mark.parametrize("shift", range(4))
def test_an_escaped_slash_is_one_wherever_the_pieces_end(shift: int) -> None:
    """Letters of JSON are cut between a backslash and its slash as well."""
    plain = HEAD + "A" * shift + "/" * 200_000
    text = memoryview(plain.replace("/", "\\/").encode())
    assert b"".join(sources.letters(text)) == plain.encode()


@pytest.mark.parametrize("slash", ["/", "\\/"], ids=["plain", "as PHP writes it"])
def test_the_digest_is_that_of_the_whole_request(slash: str) -> None:
    """An idempotency key tells a request by all of its JSON in one spelling, long data URLs in their places: as earlier releases did."""
    long = [HEAD + base64.b64encode(os.urandom(100_000)).decode() for _ in range(2)]
    text = json.dumps({"mask": long[0], "operation": "erase", "image": long[1]}).replace("/", slash)
    whole = {"operation": "erase", "image": long[1], "mask": long[0]}
    expected = hashlib.sha256(json.dumps([whole, {}], sort_keys=True).encode()).hexdigest()
    assert job_digest(bodies._job_request(text.encode())) == expected


def test_a_long_data_url_is_not_copied() -> None:
    """Copies of thirty megabytes keep everybody from the interpreter: a request points into its body."""
    body = bytearray(json.dumps({"operation": "outpaint", "expand": {"left": 8}, "image": HEAD + "A" * 2**20}).encode())
    (view,) = bodies._job_request(body).data_urls.values()
    assert view.obj is body
    assert len(view) == len(HEAD) + 2**20
