"""Object stores that are not alike: how they are addressed, signed in to, and what they answer; SeaweedFS behind a proxy that is odd."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog

from api_schemas.errors import PayloadTooLarge, Unavailable
from core.settings import S3, Settings
from core.storage import ObjectNotFound, Storage
from scripts.store_proxy import Answer, StoreProxy

KEYS = [f"inputs/shop/odd/{number}" for number in range(3)]


def refusal(status: int, code: str) -> Answer:
    """A store's error."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>it says why</Message></Error>'.encode()
    return Answer(status, [("Content-Type", "application/xml")], body)


def is_bulk(method: str, path: str) -> bool:
    return method == "POST" and path.partition("?")[2].startswith("delete")


@pytest.fixture
def odd(settings: Settings) -> Iterator[StoreProxy]:
    """The stack's own store through a proxy."""
    port = urlsplit(settings.s3.endpoint_url or "").port
    assert port
    with StoreProxy(port) as proxy:
        yield proxy


def through(settings: Settings, odd: StoreProxy) -> Storage:
    return Storage(settings.s3.model_copy(update={"endpoint_url": f"http://127.0.0.1:{odd.port}"}), patient=False)


@contextmanager
def stored(storage: Storage) -> Iterator[None]:
    """Three objects, which are gone afterwards whatever the test did."""
    for key in KEYS:
        storage.put(key, b"x", "image/png")
    yield
    storage.delete(KEYS)


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "af-south-1", "me-south-1"])
def test_urls_for_aws_name_the_region_of_the_bucket(region: str) -> None:
    """Presigned URLs lead to the regional endpoint, the only one that newer regions have; a bucket whose name has dots stands in the path there."""
    for bucket, host, path in (
        ("shop-images", f"shop-images.s3.{region}.amazonaws.com", "/k"),
        ("shop.images", f"s3.{region}.amazonaws.com", "/shop.images/k"),
    ):
        storage = Storage(S3.model_validate({"region": region, "bucket": bucket, "access_key_id": "a", "secret_access_key": "b"}))
        for url in (storage.presign_get("k"), storage.presign_put("k", at_most_s=60)):
            assert (urlsplit(url).netloc, urlsplit(url).path) == (host, path)


@pytest.mark.parametrize(("style", "netloc", "path"), [("virtual", "shop.oss.example.com", "/k"), ("auto", "oss.example.com", "/shop/k")])
def test_the_bucket_stands_where_the_setting_says(style: str, netloc: str, path: str) -> None:
    """A store that wants it in the host's name gets it there by ``addressing_style``; otherwise it is in the path of an endpoint of one's own."""
    told = {"endpoint_url": "https://oss.example.com", "bucket": "shop", "access_key_id": "a", "secret_access_key": "b"}
    url = urlsplit(Storage(S3.model_validate({**told, "addressing_style": style})).presign_get("k"))
    assert (url.netloc, url.path) == (netloc, path)


def test_temporary_credentials_are_told_whole(settings: Settings, odd: StoreProxy) -> None:
    """A session token goes with every call, and into presigned URLs."""
    seen: list[str | None] = []

    def look(_method: str, _path: str, headers: Mapping[str, str]) -> Answer:
        seen.append(headers.get("X-Amz-Security-Token"))
        return Answer(200, [], b"")

    odd.instead = look
    storage = through(settings.model_copy(update={"s3": S3.model_validate({**settings.s3.model_dump(), "session_token": "token-1"})}), odd)
    storage.ping()
    storage.put(KEYS[0], b"x", "image/png")
    assert seen == ["token-1", "token-1"]
    assert parse_qs(urlsplit(storage.presign_get("k")).query)["X-Amz-Security-Token"] == ["token-1"]


@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (400, "MissingContentMD5"), (405, "MethodNotAllowed"), (404, "NoSuchKey")]
)
def test_a_store_without_bulk_deletion_deletes_one_by_one(
    settings: Settings, storage: Storage, odd: StoreProxy, status: int, code: str
) -> None:
    """Where DeleteObjects is refused its keys go by DeleteObject; the store is asked once, and the log has its own code."""
    odd.instead = lambda method, path, _: refusal(status, code) if is_bulk(method, path) else None
    through_odd = through(settings, odd)
    with stored(storage), structlog.testing.capture_logs() as logs:
        through_odd.delete(KEYS)
        through_odd.delete(KEYS)
        assert storage.keys("inputs/shop/odd/") == []
    assert (odd.calls["BULK"], odd.calls["DELETE"]) == (1, 6)
    assert status == 404 or [entry["code"] for entry in logs if entry["event"] == "store_failed"] == [code]


def test_a_key_that_is_gone_counts_as_deleted(settings: Settings, odd: StoreProxy) -> None:
    """A store that calls a missing key an error has deleted it."""
    odd.instead = lambda *_: refusal(404, "NoSuchKey")
    through(settings, odd).delete(KEYS)
    errors = b'<?xml version="1.0"?><DeleteResult><Error><Key>k</Key><Code>NoSuchKey</Code></Error></DeleteResult>'
    odd.instead = lambda *_: Answer(200, [("Content-Type", "application/xml")], errors)
    through(settings, odd).delete(KEYS)


def test_a_store_that_is_busy_is_not_asked_key_by_key(settings: Settings, storage: Storage, odd: StoreProxy) -> None:
    """503 SlowDown means later, and does not turn one call into a thousand."""
    odd.instead = lambda *_: refusal(503, "SlowDown")
    with stored(storage), structlog.testing.capture_logs() as logs:
        with pytest.raises(Unavailable, match="does not delete"):
            through(settings, odd).delete(KEYS)
        assert storage.keys("inputs/shop/odd/") == KEYS
    assert odd.calls["DELETE"] == 0
    (told,) = [entry for entry in logs if entry["event"] == "store_failed"]
    assert (told["code"], told["status"], told["said"]) == ("SlowDown", 503, "it says why")


def test_an_object_without_a_length_is_read_and_bounded(settings: Settings, storage: Storage, odd: StoreProxy) -> None:
    """An answer in chunks is as good as any, and the limit holds for it too."""
    odd.after = lambda method, answer: replace(answer, chunked=method == "GET")
    with stored(storage):
        assert through(settings, odd).get(KEYS[0], max_bytes=1) == b"x"
        with pytest.raises(PayloadTooLarge):
            through(settings, odd).get(KEYS[0], max_bytes=0)
        with pytest.raises(ObjectNotFound):
            through(settings, odd).get("inputs/shop/none")


@pytest.mark.parametrize("call", ["put", "get", "keys", "ping", "copy"])
def test_the_log_has_the_words_of_the_store(settings: Settings, odd: StoreProxy, call: str) -> None:
    """Whatever call it refuses, its status and code are logged; the caller hears that the store does not do it."""
    odd.instead = lambda *_: refusal(403, "InvalidAccessKeyId")
    arguments = {"put": ("k", b"x", "image/png"), "get": ("k",), "keys": ("k",), "ping": (), "copy": ("k", "l")}[call]
    with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable) as told:
        getattr(through(settings, odd), call)(*arguments)
    (entry,) = [entry for entry in logs if entry["event"] == "store_failed"]
    assert (entry["status"], entry["code"]) == (403, "403" if call == "ping" else "InvalidAccessKeyId")  # HEAD has no body
    assert "InvalidAccessKeyId" not in str(told.value)
