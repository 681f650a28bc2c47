"""Spellings of addresses that only this machine can reach, for images and for webhooks: nothing connects."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from api_schemas.errors import FetchFailed, UrlNotAllowed
from core import outbound
from core.settings import Outbound

# Hosts. That of a URL whose authority is more than a host is in ``URLS``.
HOSTS = [
    # loopback and unspecified, in the ways that inet_aton reads
    "127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.255", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0x7f.0.0.1",
    "0X7F.0.0.0x1", "0177.0.0.1", "0177.1", "017700000001", "0177.0x0.0.1", "00127.0.0.1", "000000177.0.0.1", "127.0.0.1.", "2130706433.",
    "0", "0.0.0.0", "0x0", "0.0.0.0.", "00000000000", "0.1.2.3", "localhost", "LOCALHOST", "localhost.",
    # private, shared, link-local, the metadata services, documentation, benchmarks, multicast, broadcast
    "10.0.0.1", "10.255.255.255", "0xa.1", "167772161", "012.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.1", "3232235521",
    "100.64.0.1", "100.127.255.254", "169.254.169.254", "169.254.169.254.", "2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376", "169.16689662", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16", "192.0.2.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.88.99.1",
    # IPv6: loopback, unspecified, what stands for an IPv4 address, link-local, unique local, site-local, multicast, documentation
    "[::1]", "[0:0:0:0:0:0:0:1]", "[0000:0000:0000:0000:0000:0000:0000:0001]", "[::]", "[::127.0.0.1]", "[::7f00:1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[::FFFF:127.0.0.1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::ffff:0.0.0.0]", "[::ffff:10.0.0.1]", "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::]", "[2002:a00:1::1]", "[2001:0:4136:e378:8000:63bf:80ff:fffe]", "[fe80::1]", "[fe80::1%25lo]", "[fc00::1]", "[fd00:ec2::254]",
    "[fec0::1]", "[ff02::1]", "[2001:db8::1]", "[::ffff:0:7f00:1]", "[::ffff:0:127.0.0.1]", "[4000::1]", "[5f00::1]",
    # letters and digits that IDNA or a resolver may read as others
    "127。0。0。1", "１２７.０.０.１", "①②⑦.⓪.⓪.①", "127．0．0．1", "ｌｏｃａｌｈｏｓｔ", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "loc\u00adalhost", "127.0.0.1%2e",
    "0x7f。1", "%31%32%37.0.0.1", "127%2e0%2e0%2e1",
]  # fmt: skip
URLS = [
    "http://127.0.0.1:{port}@93.184.216.34/", "http://93.184.216.34@127.0.0.1:{port}/", "http://user:pw@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@93.184.216.34/", "http://127.0.0.1:{port}?@93.184.216.34/", "http://127.0.0.1:{port}\\@93.184.216.34/",
    "http:\\\\127.0.0.1:{port}\\", "http:/127.0.0.1:{port}/", "http:127.0.0.1:{port}", "//127.0.0.1:{port}/", "http:///127.0.0.1:{port}/",
    "hTTp://127.0.0.1:{port}/", " http://127.0.0.1:{port}/", "http://127.0.0.1:{port}\t/", "http://127.0.0.1:{port}\r\nHost: a/",
    "http://[::1]:{port}@93.184.216.34/", "http://[127.0.0.1]:{port}/", "http://127.0.0.1:0{port}/", "ftp://127.0.0.1:{port}/",
    "file:///etc/passwd", "gopher://127.0.0.1:{port}/_x", "unix:///run/docker.sock", "http+unix://%2frun%2fdocker.sock/", "http://inner.example:{port}/",
    "http://both.example:{port}/", "http://v6.example:{port}/",
]  # fmt: skip
NAMES = {"inner.example": ["127.0.0.1"], "both.example": ["93.184.216.34", "127.0.0.1"], "v6.example": ["::ffff:127.0.0.1"]}


@dataclass
class Watch:
    """A socket that listens on every address of this machine, and every connection that this process tries to make."""

    port: int
    accepted: list[Any] = field(default_factory=list)
    tried: list[Any] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    answers: dict[str, list[list[str]]] = field(default_factory=dict)
    """What a name server says of a name: another answer each time, and the last one from then on."""

    @property
    def settings(self) -> Outbound:
        """Its port is allowed, so that only the address can be what is refused."""
        return Outbound(ports=(self.port,), timeout_s=20)


@pytest.fixture
def listening() -> Iterator[Watch]:
    """A socket on every address of this machine that answers what it is asked."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        watched = Watch(listener.getsockname()[1], answers={name: [addresses] for name, addresses in NAMES.items()})

        def accept() -> None:
            while True:
                try:
                    connection, address = listener.accept()
                except OSError:
                    return
                watched.accepted.append(address)
                with connection:
                    connection.settimeout(10)
                    while not connection.recv(4096).endswith((b"\r\n\r\n", b"{}")):
                        pass
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")

        thread = threading.Thread(target=accept)
        thread.start()
        yield watched
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.fixture
def watch(listening: Watch, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """It, with every connection counted, and a name server of the test's own."""
    real_connect, real_resolve = socket.socket.connect, socket.getaddrinfo

    def connect(sock: socket.socket, address: Any) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            listening.tried.append(address)
            if not str(address[0]).startswith("127."):
                raise ConnectionRefusedError("tests leave this machine alone")
        real_connect(sock, address)

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        listening.asked.append(name)
        if name in listening.answers:
            known = listening.answers[name]
            addresses = known.pop(0) if len(known) > 1 else known[0]
            families = (socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses)
            return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in zip(families, addresses, strict=True)]
        if any(letter.isalpha() for letter in name.lower().removeprefix("0x")) and "localhost" not in name and ":" not in name:
            kwargs["flags"] = socket.AI_NUMERICHOST  # no name server is asked for what is no address
        return real_resolve(host, port, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return listening


async def get_image(url: str, settings: Outbound) -> None:
    """As service/sources.py does."""
    async with outbound.client(settings) as http:
        await outbound.fetch(http, url, settings, max_bytes=1000)


async def register_webhook(url: str, settings: Outbound) -> None:
    """As a request that names a webhook URL is checked."""
    outbound.check_destination(url, settings)


async def post_webhook(url: str, settings: Outbound) -> None:
    """As worker/webhooks.py does, whatever was checked before."""
    async with outbound.client(settings) as http, http.stream("POST", url, content=b"{}"):
        pass


def outcome(call: Callable[[str, Outbound], Any], url: str, settings: Outbound) -> Exception | None:
    try:
        asyncio.run(call(url, settings))
    except (UrlNotAllowed, FetchFailed, httpx.HTTPError, httpx.InvalidURL) as error:
        return error
    return None


@pytest.mark.parametrize("url", [f"http://{host}:{{port}}/x" for host in HOSTS] + URLS)
def test_no_spelling_reaches_the_inside(watch: Watch, url: str) -> None:
    """An image is not fetched from it and a webhook is not sent to it: each is an error, and not one connection is tried."""
    spelt = url.replace("{port}", str(watch.port))
    assert outcome(get_image, spelt, watch.settings) is not None
    assert outcome(post_webhook, spelt, watch.settings) is not None
    outcome(register_webhook, spelt, watch.settings)
    assert (watch.tried, watch.accepted) == ([], [])


def test_there_are_many_spellings() -> None:
    """No fewer than sixty, none of them twice."""
    assert len(set(HOSTS + URLS)) == len(HOSTS + URLS) >= 60


@pytest.mark.parametrize("host", [host for host in HOSTS if host.isascii() and "%" not in host])
def test_a_webhook_url_is_refused_when_it_is_registered(watch: Watch, host: str) -> None:
    """What leads inside by its spelling alone is refused before anything is kept of it, unless no resolver takes it for an address."""
    refused = outcome(register_webhook, f"http://{host}:{watch.port}/x", watch.settings)
    try:
        socket.getaddrinfo(host.strip("[]"), 1)
    except OSError:
        return
    assert isinstance(refused, UrlNotAllowed)


def test_the_socket_that_is_watched_can_be_reached(watch: Watch) -> None:
    """With loopback allowed the same calls connect: the counts of the other tests do count."""
    allowed = watch.settings.model_copy(update={"allow_private": Outbound.model_validate({"allow_private": "127.0.0.1/32"}).allow_private})
    for call in (get_image, post_webhook):
        assert outcome(call, f"http://127.0.0.1:{watch.port}/x", allowed) is None
    assert (len(watch.tried), len(watch.accepted)) == (2, 2)


@pytest.mark.parametrize("call", [get_image, post_webhook])
def test_a_name_is_looked_up_when_it_is_called_and_not_before(watch: Watch, call: Callable[[str, Outbound], Any]) -> None:
    """A name that leads to loopback is asked for by no check of its URL, and refused when it is called."""
    url = f"http://inner.example:{watch.port}/x"
    assert outcome(register_webhook, url, watch.settings) is None
    assert watch.asked == []
    assert isinstance(outcome(call, url, watch.settings), FetchFailed | httpx.ConnectError)
    assert watch.asked == ["inner.example"]
    assert (watch.tried, watch.accepted) == ([], [])


@pytest.mark.parametrize("call", [register_webhook, get_image, post_webhook])
def test_a_name_that_leads_inside_and_one_that_nobody_knows_are_told_alike(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, call: Callable[[str, Outbound], Any]
) -> None:
    """Both give one answer, and at the same time after they were looked up: which inner names there are is told by neither."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    watch.answers["shop.inner"] = [["10.0.0.1"]]
    inner, unknown = (outcome(call, f"http://{host}:{watch.port}/x", watch.settings) for host in ("shop.inner", "shop.nowhere"))
    assert type(inner) is type(unknown)
    assert str(inner).replace("inner", "nowhere") == str(unknown)
    assert [seconds > 0 for seconds in slept] == ([] if call is register_webhook else [True, True])


@pytest.mark.parametrize("call", [get_image, post_webhook])
def test_a_name_that_changes_its_mind_between_check_and_connection(watch: Watch, call: Callable[[str, Outbound], Any]) -> None:
    """One answer is asked for and the connection goes to that one: the second answer, loopback, is never heard."""
    watch.answers["rebind.example"] = [["93.184.216.34"], ["127.0.0.1"]]
    assert outcome(call, f"http://rebind.example:{watch.port}/x", watch.settings) is not None
    assert watch.asked.count("rebind.example") == 1
    assert {address[0] for address in watch.tried} <= {"93.184.216.34"}
    assert watch.accepted == []


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("call", [get_image, post_webhook])
def test_no_proxy_of_the_environment_is_asked(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, variable: str, call: Callable[[str, Outbound], Any]
) -> None:
    """With a proxy in the environment nothing is sent to it, which could reach what this machine must not."""
    monkeypatch.setenv(variable, f"http://127.0.0.1:{watch.port}")
    assert outcome(call, "http://10.0.0.1/x", watch.settings) is not None
    assert (watch.tried, watch.accepted) == ([], [])
