"""A proxy on loopback before an object store: each request takes longer through it, as it would from another data centre; tests make it odd."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs

_HOP = {"connection", "content-length", "keep-alive", "transfer-encoding"}


@dataclass
class Answer:
    """What goes back to the caller."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    chunked: bool = False
    """Without a length."""


class StoreProxy:
    """Passes requests on, headers and all, so that signatures hold. Use as a context manager; ``port`` is there from the start."""

    def __init__(self, target_port: int, *, delay_s: float = 0.0) -> None:
        self.target_port, self.delay_s = target_port, delay_s
        self.calls: Counter[str] = Counter()
        """By method, and ``LIST`` and ``BULK`` for a listing and a DeleteObjects."""
        self.listed: Counter[str] = Counter()
        """Listings by the first part of their prefix."""
        self.instead: Callable[[str, str, Mapping[str, str]], Answer | None] = lambda *_: None
        """Of method, path and headers: an answer in place of the store's; ``None``: the store is asked."""
        self.after: Callable[[str, Answer], Answer] = lambda _method, answer: answer
        """What becomes of the store's own answer."""
        self._lock = threading.Lock()
        self._server = self._listen()
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name=f"store-proxy-{self.port}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, method: str, path: str, headers: dict[str, str], body: bytes, store: http.client.HTTPConnection) -> Answer:
        query = path.partition("?")[2]
        with self._lock:
            self.calls["LIST" if "list-type=" in query else "BULK" if query.startswith("delete") else method] += 1
            if "list-type=" in query:
                self.listed[parse_qs(query).get("prefix", [""])[0].partition("/")[0]] += 1
        time.sleep(self.delay_s)
        own = self.instead(method, path, headers)
        if own is not None:
            return own
        store.request(method, path, body or None, {name: value for name, value in headers.items() if name.lower() != "connection"})
        got = store.getresponse()
        passed = [(name, value) for name, value in got.getheaders() if name.lower() not in _HOP]
        return self.after(method, Answer(got.status, passed, got.read()))

    def _listen(self) -> ThreadingHTTPServer:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                self.store = http.client.HTTPConnection("127.0.0.1", proxy.target_port, timeout=60)

            def finish(self) -> None:
                self.store.close()
                with suppress(OSError):
                    super().finish()

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                answer = proxy._handle(self.command, self.path, dict(self.headers.items()), body, self.store)
                self.send_response_only(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.send_header(*(("Transfer-Encoding", "chunked") if answer.chunked else ("Content-Length", str(len(answer.body)))))
                self.end_headers()
                if self.command != "HEAD":
                    data = answer.body
                    self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if answer.chunked else data)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815 - http.server's names

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        return Server(("127.0.0.1", 0), Handler)
