"""HTTP to addresses that callers name, without letting them reach what only this machine can reach (SSRF).

A host is resolved once; unless every address is allowed nothing is connected; and the connection goes to the first that answers of those that were
checked, so that a name cannot change its mind in between. Proxies from the environment are ignored, one of the settings looks names up itself, and no
redirect is followed here.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore
import httpx
import structlog

from api_schemas.errors import FetchFailed, PayloadTooLarge, UrlNotAllowed
from core.settings import Outbound

_log = structlog.get_logger(__name__)
MAX_REDIRECTS = 3
BAD_REDIRECT = (httpx.InvalidURL, UnicodeError)
"""What httpx raises for a ``Location`` that it cannot read, followed or not."""
_LAST_PORT = 65535
_FREE_CHUNKS, _LEAST_CHUNK = 100, 512
"""Pieces of an answer of which nothing is asked, and bytes that the others have on average: each costs the loop as much as a large one."""
# Threads of their own: a slow name server must not take those that everything else waits for, and a lookup cannot be broken off.
_RESOLVERS = ThreadPoolExecutor(256, "dns")
_LOOKUPS: ContextVar[set[Future[Any]] | None] = ContextVar("lookups", default=None)
_MOST_ADDRESSES = 8
"""Of a host that are tried: names may lead to thousands."""
_NEXT_AFTER_S = 0.25
"""When the next address is tried beside one that has not answered (RFC 8305, section 5)."""
_TOLD_AFTER_S = 1.0
"""When it is told that a name leads nowhere: the same time for one that nobody knows and for one that an inner name server answers at once."""
_NAT64 = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")
_COMPATIBLE = IPv6Network("::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All that was ever allocated. What Python 3.11 takes for global holds more: site-local, local NAT64, IPv4-translated addresses."""
_NEVER = (
    IPv4Network("192.88.99.0/24"),
    IPv4Network("192.0.0.0/24"),
    IPv4Network("168.63.129.16/32"),
)
"""What Python 3.11 takes for global: 6to4 relays, protocol assignments (Oracle's metadata service is among them); and what is global by the registry
and yet leads to the host that one runs on (Azure's agent)."""


class AddressNotAllowed(httpcore.ConnectError):
    """The URL spells an address or a port that callers may not name."""


class NowhereToGo(httpcore.ConnectError):
    """The host is a name that leads to no address that may be called: nobody knows it, or it leads inside. Callers are not told which."""


class Step(StrEnum):
    """How far a call came: what had not happened when it failed or its time was over."""

    LOOKUP = "no address of the host"
    CONNECT = "no connection"
    TLS = "no TLS handshake"
    ANSWER = "no answer"
    BODY = "no end of the answer"


_BEGINS = {
    "start_tls.started": Step.TLS,
    "send_request_headers.started": Step.ANSWER,
    "receive_response_body.started": Step.BODY,
}


@dataclass
class Progress:
    """Of one call."""

    step: Step = Step.CONNECT

    async def trace(self, event: str, _: Mapping[str, Any]) -> None:
        """Take note of what httpcore tells."""
        self.step = _BEGINS.get(event.partition(".")[2], self.step)


_PROGRESS: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def following() -> Iterator[Progress]:
    """The progress of the call that is made within."""
    token = _PROGRESS.set(progress := Progress())
    try:
        yield progress
    finally:
        _PROGRESS.reset(token)


def _comes_to(step: Step) -> None:
    if (progress := _PROGRESS.get()) is not None:
        progress.step = step


async def _note_progress(request: httpx.Request) -> None:
    if (progress := _PROGRESS.get()) is not None:
        request.extensions = {**request.extensions, "trace": progress.trace}


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for, if it does (mapped, NAT64, 6to4, Teredo)."""
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address in _NAT64 or address in _COMPATIBLE:
        return IPv4Address(address.packed[-4:])
    if address in _6TO4:
        return IPv4Address(address.packed[2:6])
    return address.teredo[1] if address.teredo else None


def is_allowed(address: IPv4Address | IPv6Address, port: int, settings: Outbound) -> bool:
    """Whether a caller may make this service connect to ``address``."""
    if any(address in network for network in settings.allow_private if network.version == address.version):
        return True
    if isinstance(address, IPv6Address):
        if inner := _embedded(address):
            return is_allowed(inner, port, settings)
        if address not in _GLOBAL_UNICAST:
            return False
    elif any(address in network for network in _NEVER):
        return False
    return address.is_global and not address.is_multicast and port in settings.ports


@contextmanager
def noting_lookups(lookups: set[Future[Any]]) -> Iterator[None]:
    """Adds to ``lookups`` those that are begun within: a lookup holds its thread to its end, also where nobody waits for it any more."""
    token = _LOOKUPS.set(lookups)
    try:
        yield
    finally:
        _LOOKUPS.reset(token)


async def _resolve(host: str, port: int) -> list[str]:
    """All addresses of a name, asked for once. Raises ``OSError`` and ``UnicodeError``."""
    lookup = _RESOLVERS.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    if (noted := _LOOKUPS.get()) is not None:
        noted.add(lookup)
    return list(dict.fromkeys(str(entry[4][0]) for entry in await asyncio.wrap_future(lookup)))


def _spelt(host: str) -> list[str]:
    """The address that a host says by itself, in any of the ways that a resolver reads without asking; none for a name. Raises ``UnicodeError``."""
    with suppress(ValueError):
        return [str(ip_address(host))]
    name = host.encode("idna").decode().rstrip(".").lower()
    if name.rpartition(".")[2] == "localhost":  # this machine, by RFC 6761
        return ["127.0.0.1"]
    with suppress(OSError):
        return [socket.inet_ntoa(socket.inet_aton(name))]
    return []


def _all_allowed(addresses: Iterable[str], port: int, settings: Outbound) -> bool:
    return all(is_allowed(ip_address(address.partition("%")[0]), port, settings) for address in addresses)


async def _first_of(
    addresses: Sequence[str], connect: Callable[[str], Coroutine[Any, Any, httpcore.AsyncNetworkStream]]
) -> httpcore.AsyncNetworkStream:
    """A connection to the first address that takes one: each next is tried when one has failed, or has not answered for a moment."""
    left, trying, failures = list(addresses), set[asyncio.Task[httpcore.AsyncNetworkStream]](), list[BaseException]()
    try:
        while left or trying:
            if left:
                trying.add(asyncio.create_task(connect(left.pop(0))))
            done, trying = await asyncio.wait(trying, timeout=_NEXT_AFTER_S if left else None, return_when=asyncio.FIRST_COMPLETED)
            connected = [task.result() for task in done if task.exception() is None]
            failures += [fault for task in done if (fault := task.exception()) is not None]
            if connected:
                for each in connected[1:]:
                    await each.aclose()
                return connected[0]
        raise failures[0]
    finally:
        for task in trying:
            task.cancel()
        for late in await asyncio.gather(*trying, return_exceptions=True):
            if isinstance(late, httpcore.AsyncNetworkStream):
                await late.aclose()


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Resolves, checks, and connects to what it checked."""

    def __init__(self, settings: Outbound) -> None:
        self._settings = settings
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = _spelt(host)
        except UnicodeError as error:
            raise httpcore.ConnectError(f"{host} is not a name") from error
        if addresses and not _all_allowed(addresses, port, self._settings):
            raise AddressNotAllowed(f"{host} is not allowed")
        addresses = addresses or await self._addresses_of(host, port, timeout)
        _comes_to(Step.CONNECT)

        def connect(address: str) -> Coroutine[Any, Any, httpcore.AsyncNetworkStream]:
            return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)

        return await _first_of(addresses[:_MOST_ADDRESSES], connect)

    async def _addresses_of(self, name: str, port: int, timeout: float | None) -> list[str]:  # noqa: ASYNC109 - as above
        """What a name leads to. Raises ``NowhereToGo``, at the same time for all reasons."""
        _comes_to(Step.LOOKUP)
        clock = asyncio.get_running_loop().time
        began, fault = clock(), None
        try:
            async with asyncio.timeout(timeout):
                addresses = await _resolve(name, port)
            if _all_allowed(addresses, port, self._settings):
                return addresses
            why = "not allowed"
        except (OSError, UnicodeError) as error:  # a timeout too
            fault, why = error, "does not resolve"
        _log.info("nowhere_to_go", host=name, why=why)
        await asyncio.sleep(began + _TOLD_AFTER_S - clock())
        raise NowhereToGo(f"{name} leads to no address that may be called") from fault

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - httpcore's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        raise AddressNotAllowed(f"no socket files: {path}")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class _ByProxy(httpx.AsyncHTTPTransport):
    """Has a proxy call, which looks names up by itself; what a URL spells is checked here."""

    def __init__(self, settings: Outbound, proxy: httpx.Proxy, **named: Any) -> None:
        super().__init__(proxy=proxy, **named)
        self._settings = settings

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            _check_unresolved(request.url, self._settings)
        except UrlNotAllowed as error:
            raise httpx.ConnectError(error.detail) from AddressNotAllowed(error.detail)
        return await super().handle_async_request(request)


def _transport(settings: Outbound) -> httpx.AsyncHTTPTransport:
    trusted = httpx.create_ssl_context(trust_env=False)
    if settings.ca_file is not None:
        trusted.load_verify_locations(settings.ca_file)
    # Its users bound what they do at once. A pool that is full would make one receiver wait for another.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    if settings.proxy is not None:
        url = httpx.URL(settings.proxy.get_secret_value())
        proxy = httpx.Proxy(url, ssl_context=trusted if url.scheme == "https" else None)
        return _ByProxy(settings, proxy, verify=trusted, retries=0, trust_env=False, limits=limits)
    transport = httpx.AsyncHTTPTransport(verify=trusted, retries=0, trust_env=False, limits=limits)
    # httpx has no argument for httpcore's network backend; tests/core/test_outbound.py counts connections through this.
    transport._pool._network_backend = _GuardedBackend(settings)  # noqa: SLF001
    return transport


def user_agent(settings: Outbound) -> str:
    """By what name hosts and receivers know who calls."""
    name = f"Outfill/{version('outfill')}"
    return f"{name} (+{settings.contact})" if settings.contact else name


def client(settings: Outbound) -> httpx.AsyncClient:
    """An HTTP client that connects only where callers may send it. Denied hosts raise ``httpx.ConnectError``."""
    transport = _transport(settings)
    return httpx.AsyncClient(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        timeout=settings.timeout_s,
        # One client serves all tenants: what a receiver of one sets is not told to another's.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        headers={"accept-encoding": "identity", "user-agent": user_agent(settings)},
        event_hooks={"request": [_note_progress]},
    )


def is_denied(error: httpx.HTTPError) -> bool:
    """Whether the request failed because its URL spells an address that is not allowed (rather than for a fault of the network)."""
    return isinstance(error.__cause__, AddressNotAllowed)


def leads_nowhere(error: httpx.HTTPError) -> bool:
    """Whether the request failed because its host is a name that leads to no address that may be called."""
    return isinstance(error.__cause__, NowhereToGo)


def why(error: Exception, progress: Progress) -> str:
    """What a call failed at, in its owner's words. No address of ours is told."""
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return f"{progress.step} in time"
    if isinstance(error, httpx.HTTPError) and is_denied(error):
        return "the URL leads to an address that is not allowed"
    if isinstance(error, httpx.HTTPError) and leads_nowhere(error):
        return "the host leads to no address that may be called"
    if isinstance(error, httpx.ProxyError):
        return "the proxy of this service refuses the host"
    if (fault := _certificate_fault(error)) is not None:
        return f"{progress.step}: {fault}"
    return progress.step


def _certificate_fault(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None


def check_url(url: str) -> httpx.URL:
    """Parse an http(s) URL without credentials. Raises ``UrlNotAllowed``."""
    try:
        parsed = httpx.URL(url)
        host, port = parsed.host, parsed.port
    except (httpx.InvalidURL, UnicodeError) as error:  # a host that IDNA does not know
        raise UrlNotAllowed("not a URL") from error
    if parsed.scheme not in ("http", "https") or not host or parsed.userinfo:
        raise UrlNotAllowed("only http and https URLs without credentials are allowed")
    if port is not None and not 0 < port <= _LAST_PORT:
        raise UrlNotAllowed(f"there is no port {port}")
    return parsed


def check_destination(url: str, settings: Outbound) -> None:
    """Raise ``UrlNotAllowed`` if ``url`` spells an address or a port that is not allowed.

    No name is looked up: the answer would tell of inner names which there are, and name servers may fail for a while. The guard looks when it is called.
    """
    _check_unresolved(check_url(url), settings)


def _check_unresolved(parsed: httpx.URL, settings: Outbound) -> None:
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    try:
        addresses = _spelt(parsed.host)
    except UnicodeError as error:
        raise UrlNotAllowed("the host is not a name") from error
    if not addresses and port not in settings.ports and not settings.allow_private:
        raise UrlNotAllowed(f"the port {port} is not allowed")
    if not _all_allowed(addresses, port, settings):
        if any(_all_allowed(addresses, other, settings) for other in settings.ports):
            raise UrlNotAllowed(f"the port {port} is not allowed")
        raise UrlNotAllowed("the URL leads to an address that is not allowed")


async def fetch(
    http: httpx.AsyncClient, url: str, settings: Outbound, *, max_bytes: int, on_bytes: Callable[[int], None] = lambda _: None
) -> bytes:
    """Download at most ``max_bytes``, following a few redirects, each checked like the first URL. ``on_bytes`` is told how many have come, as they come.

    Raises ``UrlNotAllowed``, ``FetchFailed`` and ``PayloadTooLarge``.
    """
    with following() as progress:
        try:
            async with asyncio.timeout(settings.timeout_s):
                for _ in range(MAX_REDIRECTS + 1):
                    check_destination(url, settings)
                    async with http.stream("GET", url) as answer:
                        if answer.has_redirect_location:
                            url = str(answer.url.join(answer.headers["location"]))
                            continue
                        if not answer.is_success:
                            raise FetchFailed(f"the URL answered {answer.status_code}")
                        return await _read(answer, max_bytes, on_bytes)
                raise FetchFailed("too many redirects")
        except httpx.HTTPError as error:
            if is_denied(error):
                raise UrlNotAllowed(why(error, progress)) from error
            raise FetchFailed(f"the URL could not be fetched: {why(error, progress)}") from error
        except BAD_REDIRECT as error:
            raise FetchFailed("the URL redirects to what is no URL") from error
        except TimeoutError as error:
            raise FetchFailed(f"the URL took longer than {settings.timeout_s:g} s: {why(error, progress)}") from error


async def _read(answer: httpx.Response, max_bytes: int, on_bytes: Callable[[int], None]) -> bytes:
    """The body as it came. Decoding it would be to trust its sender with our memory: a few kilobytes can stand for gigabytes."""
    if (encoding := answer.headers.get("content-encoding", "identity").strip().lower()) not in ("", "identity"):
        raise FetchFailed(f"the URL answered in the content encoding {encoding[:40]}, which was not asked for")
    body, chunks = bytearray(), 0
    async for chunk in answer.aiter_raw():
        on_bytes(len(chunk))
        body += chunk
        chunks += 1
        if chunks > _FREE_CHUNKS and len(body) < _LEAST_CHUNK * (chunks - _FREE_CHUNKS):
            raise FetchFailed("the URL answered in pieces that are too small")
        await asyncio.sleep(0)  # what has come already would be read in one go
        if len(body) > max_bytes:
            raise PayloadTooLarge(f"the file has more than {max_bytes} bytes")
    return bytes(body)
