"""Callers name URLs; this machine's own network stays out of their reach."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import httpcore
import httpx
import pytest
from pydantic import ValidationError

from api_schemas.errors import FetchFailed, OutfillError, PayloadTooLarge, UrlNotAllowed
from core import outbound
from core.settings import Outbound

T = TypeVar("T")
CERTIFICATE = Path(__file__).parent / "tls.example.pem"
"""Of tls.example, for a hundred years, signed by itself, and its key, which opens nothing."""
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
def agents() -> list[str]:
    """The name of each caller."""
    return []


@pytest.fixture
def server(asked: list[tuple[str | None, str | None]], agents: list[str]) -> Iterator[str]:
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
            agents.append(self.headers["user-agent"])
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


# -- several addresses --------------------------------------------------------------------------------------------------------------------


def names(monkeypatch: pytest.MonkeyPatch, **table: list[str]) -> None:
    """A name server that knows these, each with ``.example`` behind it."""
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **named: Any) -> Any:
        found = table.get(str(host).removesuffix(".example"))
        if found is None:
            return real(host, port, *args, **named)
        families = (socket.AF_INET6 if ":" in address else socket.AF_INET for address in found)
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in zip(families, found, strict=True)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


EVERYWHERE = Outbound.model_validate({"allow_private": "127.0.0.0/8,::1/128"})


@pytest.mark.parametrize("addresses", [["127.0.0.9", "127.0.0.1"], ["::1", "127.0.0.1"], ["127.0.0.9"] * 20 + ["127.0.0.1"]])
def test_the_next_address_is_tried_where_one_refuses(
    server: str, monkeypatch: pytest.MonkeyPatch, connections: list[object], addresses: list[str]
) -> None:
    """A node that is down, or IPv6 that leads nowhere, costs nothing where another address answers; each is tried once."""
    names(monkeypatch, two=addresses)
    assert run(fetch(f"{server.replace('127.0.0.1', 'two.example')}/ok", EVERYWHERE)) == b"x" * 10
    assert [address[0] for address in connections] == list(dict.fromkeys(addresses))  # type: ignore[index]


def test_no_more_than_eight_addresses_are_tried(monkeypatch: pytest.MonkeyPatch, connections: list[object]) -> None:
    """Whoever has a name could else have this machine call thousands."""
    names(monkeypatch, many=[f"127.0.1.{number}" for number in range(1, 100)])
    with pytest.raises(FetchFailed, match="no connection"):
        run(fetch("http://many.example:1/x", EVERYWHERE))
    assert len(connections) == 8


def test_an_address_that_is_silent_holds_up_no_other() -> None:
    """The next is tried beside it; the first that takes a connection wins, and the others are given up."""
    given_up = asyncio.Event()
    stream = httpcore.AsyncMockStream([])

    async def connect(address: str) -> httpcore.AsyncNetworkStream:
        if address == "answers":
            return stream
        try:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # never
        except asyncio.CancelledError:
            given_up.set()
            raise

    async def first() -> bool:
        return await outbound._first_of(["silent", "answers"], connect) is stream and given_up.is_set()

    assert run(first())


# -- who calls, and what failed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("contact", "told"), [("", ""), ("https://shop.example/bot", " (+https://shop.example/bot)")])
def test_the_caller_has_a_name_of_its_own(server: str, agents: list[str], contact: str, told: str) -> None:
    """No library's, which image hosts refuse; with the address at which its operator can be reached, where there is one."""
    run(fetch(f"{server}/ok", LOOPBACK.model_copy(update={"contact": contact})))
    assert agents == [f"Outfill/{version('outfill')}{told}"]


class Odd(BaseHTTPRequestHandler):
    """Answers by the path: /nothing, /never, /half."""

    silence: threading.Event

    def do_GET(self) -> None:
        if self.path == "/nothing":
            return
        if self.path == "/half":
            self.send_response(200)
            self.send_header("content-length", "10")
            self.end_headers()
            self.wfile.write(b"x")
            self.wfile.flush()
        self.silence.wait(60)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def odd() -> Iterator[ThreadingHTTPServer]:
    """A server that is at fault."""
    Odd.silence = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield running
        Odd.silence.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def secure(odd: ThreadingHTTPServer) -> str:
    """The same behind TLS, with a certificate of an authority that nobody knows; the URL of a page."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    odd.socket = context.wrap_socket(odd.socket, server_side=True)
    return f"https://tls.example:{odd.server_port}/nothing"


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/nothing", "no answer"), ("/never", "took longer than 0.3 s: no answer in time"), ("/half", "0.3 s: no end of the answer in time")],
)
def test_a_failure_names_the_step_that_failed(odd: ThreadingHTTPServer, path: str, reason: str) -> None:
    """An answer that does not come and one that does not end are told apart."""
    with pytest.raises(FetchFailed) as caught:
        run(fetch(f"http://127.0.0.1:{odd.server_port}{path}", LOOPBACK.model_copy(update={"timeout_s": 0.3})))
    assert caught.value.detail.endswith(reason)


def test_no_connection_is_told_as_such() -> None:
    """Where nobody listens."""
    with pytest.raises(FetchFailed, match=r"^the URL could not be fetched: no connection$"):
        run(fetch("http://127.0.0.1:1/x", LOOPBACK))


def test_a_handshake_that_fails_says_why(server: str, secure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that is not trusted is told by its fault; a server without TLS has none to tell."""
    names(monkeypatch, tls=["127.0.0.1"])
    with pytest.raises(FetchFailed, match=r"no TLS handshake: self-signed certificate$"):
        run(fetch(secure, LOOPBACK))
    with pytest.raises(FetchFailed, match=r"no TLS handshake$"):
        run(fetch(server.replace("http:", "https:") + "/ok", LOOPBACK))


def test_an_authority_of_the_operators_is_trusted(secure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the public ones, where the settings name its file: the handshake succeeds, and it is the answer that does not come."""
    names(monkeypatch, tls=["127.0.0.1"])
    with pytest.raises(FetchFailed, match=r"no answer$"):
        run(fetch(secure, Outbound.model_validate({"allow_private": "127.0.0.1/32", "ca_file": CERTIFICATE})))


@pytest.mark.parametrize(
    "wrong",
    [{"ca_file": "/nowhere.pem"}, {"proxy": "proxy.example:3128"}, {"proxy": "socks5://proxy.example"}, {"contact": "me (at home)"}],
)
def test_what_cannot_be_used_stops_the_start(wrong: dict[str, str]) -> None:
    """A file that is not there, a proxy of no known kind, letters that end the comment of a header."""
    with pytest.raises(ValidationError):
        Outbound.model_validate(wrong)


# -- a proxy of the operator's ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that answers in place of every host, and refuses tunnels; its URL, and what it was asked for and by whom."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers['proxy-authorization']}")
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"hi")

        def do_CONNECT(self) -> None:
            asked.append(f"CONNECT {self.path}")
            self.send_response(403)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://me:secret@127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def test_a_proxy_of_the_settings_makes_every_call(proxy: tuple[str, list[str]], connections: list[object]) -> None:
    """It is told the name, with its own credentials, and this machine connects to it alone and looks nothing up."""
    url, asked = proxy
    settings = Outbound.model_validate({"proxy": url})
    assert run(fetch("http://shop.nowhere.example/x", settings)) == b"hi"
    assert asked == ["http://shop.nowhere.example/x Basic bWU6c2VjcmV0"]
    with pytest.raises(FetchFailed, match=r"the proxy of this service refuses the host$"):
        run(fetch("https://shop.nowhere.example/x", settings))
    assert asked[1:] == ["CONNECT shop.nowhere.example:443"]
    assert {address[0] for address in connections} == {"127.0.0.1"}  # type: ignore[index]
    assert "secret" not in repr(settings)


@pytest.mark.parametrize("host", [*INSIDE, "shop.example:22"])
def test_a_proxy_is_not_asked_for_what_spells_the_inside(proxy: tuple[str, list[str]], host: str) -> None:
    """Addresses that are not public, and ports that may not be reached, are refused before it hears of them."""
    url, asked = proxy
    with pytest.raises(UrlNotAllowed):
        run(fetch(f"http://{host}/x", Outbound.model_validate({"proxy": url})))
    assert asked == []
