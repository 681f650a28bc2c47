"""Callers name URLs; this machine's own network stays out of their reach."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any, TypeVar

import httpx
import pytest

from api_schemas.errors import FetchFailed, OutfillError, PayloadTooLarge, UrlNotAllowed
from core import outbound
from core.settings import Outbound

T = TypeVar("T")
LOOPBACK = Outbound.model_validate({"allow_private": "127.0.0.1/32"})

INSIDE = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
    "255.255.255.255", "192.0.2.1", "198.18.0.1", "[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[ff02::1]", "[::ffff:127.0.0.1]",
    "[::ffff:10.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::a00:1]", "[2002:7f00:1::]", "[2001:db8::1]", "[::127.0.0.1]", "[fec0::1]", "[64:ff9b:1::a00:1]", "192.88.99.1", "localhost", "2130706433", "0x7f000001",
    "0177.0.0.1", "127.1",
]  # fmt: skip


def run(work: Coroutine[Any, Any, T]) -> T:
    """One piece of async work."""
    return asyncio.run(work)


async def fetch(url: str, settings: Outbound, max_bytes: int = 1000) -> bytes:
    async with outbound.client(settings) as http:
        return await outbound.fetch(http, url, settings, max_bytes=max_bytes)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every address that a socket of this process is told to connect to."""
    made: list[object] = []
    real = socket.socket.connect

    def counted(sock: socket.socket, address: Any) -> None:
        made.append(address)
        real(sock, address)

    monkeypatch.setattr(socket.socket, "connect", counted)
    return made


@pytest.fixture
def asked() -> list[tuple[str | None, str | None]]:
    """The cookie and the encodings of each request that the server got."""
    return []


@pytest.fixture
def server(asked: list[tuple[str | None, str | None]]) -> Iterator[str]:
    """A web server on loopback: /ok, /big, /bomb, /loop, /inside, /port, /idna, /missing. It sets a cookie."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            target = {
                "/loop": "/loop",
                "/hop": "/ok",
                "/inside": "http://10.0.0.1/x",
                "/port": "http://1.1.1.1:99999999999999999999/",
                "/idna": "http://xn--a/",
            }.get(self.path)
            self.send_response(302 if target else 404 if self.path == "/missing" else 200)
            if self.path == "/bomb":
                self.send_header("content-encoding", "gzip")
            self.send_header("set-cookie", "whose=a; path=/")
            asked.append((self.headers["cookie"], self.headers["accept-encoding"]))
            if target:
                self.send_header("location", target)
            body = b"" if target else b"x" * (5000 if self.path == "/big" else 10)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("host", INSIDE)
def test_addresses_that_are_not_public_are_never_connected_to(host: str, connections: list[object]) -> None:
    """Every spelling of an inner address is refused, and not one connection is tried."""
    with pytest.raises((UrlNotAllowed, FetchFailed)) as caught:
        run(fetch(f"http://{host}/x", Outbound()))
    assert connections == []
    if not host[0].isdigit() or host.count(".") == 3:  # how a resolver reads odd spellings is its own business
        assert isinstance(caught.value, UrlNotAllowed) or "no address" in str(caught.value)


def test_a_name_that_resolves_inside_is_refused(monkeypatch: pytest.MonkeyPatch, connections: list[object]) -> None:
    """One inner address among a host's addresses is enough to refuse it."""

    def resolve(_host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("93.184.216.34", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(FetchFailed, match="leads to no address that may be called"):
        run(fetch("http://shop.example/x", Outbound()))
    assert connections == []


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch, connections: list[object]) -> None:
    """A name that would resolve to another address a moment later gains nothing: it is asked once."""
    asked: list[str] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        address = "127.0.0.1" if host != "rebind.example" or len(asked) == 1 else "10.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(FetchFailed):  # nobody listens there
        run(fetch("http://rebind.example:1/x", LOOPBACK))
    assert asked.count("rebind.example") == 1
    assert all("10.0.0.1" not in str(address) for address in connections)


@pytest.mark.parametrize(
    "url", ["ftp://example.com/x", "file:///etc/passwd", "http://user:pw@example.com/", "http://", "gopher://x", "http://[::1"]
)
def test_odd_urls_are_refused(url: str) -> None:
    """Only http and https URLs without credentials are followed."""
    with pytest.raises(UrlNotAllowed):
        run(fetch(url, Outbound()))


def test_unusual_ports_of_public_addresses_are_refused() -> None:
    """A public address may be called at the listed ports only."""
    assert outbound.is_allowed(ip_address("93.184.216.34"), 443, Outbound())
    assert not outbound.is_allowed(ip_address("93.184.216.34"), 22, Outbound())


def test_an_allowed_network_is_reached_through_redirects(server: str, connections: list[object]) -> None:
    """The allow-list opens a private network, for redirects within it too."""
    assert run(fetch(f"{server}/ok", LOOPBACK)) == b"x" * 10
    assert len(connections) == 1  # and the count that the other tests rely on does count
    assert run(fetch(f"{server}/hop", LOOPBACK)) == b"x" * 10


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/big", PayloadTooLarge), ("/bomb", FetchFailed), ("/loop", FetchFailed), ("/inside", UrlNotAllowed), ("/port", UrlNotAllowed),
        ("/idna", FetchFailed), ("/missing", FetchFailed),
    ],
)  # fmt: skip
def test_what_a_server_answers_is_limited(server: str, path: str, error: type[OutfillError]) -> None:
    """Too many bytes, compressed ones (a few can stand for gigabytes), endless redirects, redirects to the inside, and errors are each refused."""
    with pytest.raises(error):
        run(fetch(server + path, LOOPBACK))


def test_no_cookie_is_kept(server: str, asked: list[tuple[str | None, str | None]]) -> None:
    """One client calls for all tenants: what a server sets for one comes back with no other's request. Nothing compressed is asked for."""

    async def twice() -> None:
        async with outbound.client(LOOPBACK) as http:
            for _ in range(2):
                await outbound.fetch(http, f"{server}/ok", LOOPBACK, max_bytes=1000)

    run(twice())
    assert asked == [(None, "identity")] * 2


def test_proxies_of_the_environment_are_ignored(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy variable does not reroute what callers ask for."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert run(fetch(f"{server}/ok", LOOPBACK)) == b"x" * 10


def test_posts_do_not_follow_redirects(server: str) -> None:
    """The client itself follows no redirect: a webhook goes where it was addressed or nowhere."""

    async def post() -> httpx.Response:
        async with outbound.client(LOOPBACK) as http:
            return await http.get(f"{server}/hop")

    assert run(post()).status_code == 302
