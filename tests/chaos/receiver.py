"""A webhook receiver on loopback that verifies what arrives, and now and then refuses it."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

_REFUSED_SHARE = 0.1


@dataclass(frozen=True)
class Delivery:
    """One webhook that arrived."""

    webhook_id: str
    event: str
    sequence: int
    at: float
    """Unix time."""
    accepted: bool


@dataclass
class Receiver:
    """Everything that arrived, by job. Use as a context manager."""

    secret: str
    seed: int
    url: str = ""
    bad_signatures: list[str] = field(default_factory=list)
    """Ids of webhooks whose signature was wrong."""
    _by_job: defaultdict[str, list[Delivery]] = field(default_factory=lambda: defaultdict(list))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def deliveries(self, job_id: str) -> list[Delivery]:
        """What arrived for a job."""
        with self._lock:
            return list(self._by_job[job_id])

    def arrived(self, webhook_id: str) -> list[Delivery]:
        """All deliveries of one webhook."""
        with self._lock:
            return [each for found in self._by_job.values() for each in found if each.webhook_id == webhook_id]

    def take(self, headers: dict[str, str], body: bytes, status: int) -> None:
        """Verify and keep one delivery, which is answered with ``status``."""
        payload, webhook_id = json.loads(body), headers["webhook-id"]
        try:
            Webhook(self.secret).verify(body, headers)
        except WebhookVerificationError:
            self.bad_signatures.append(webhook_id)
        delivery = Delivery(webhook_id, payload["type"], payload["sequence"], time.time(), status < 300)
        with self._lock:
            self._by_job[payload["data"]["id"]].append(delivery)

    def __enter__(self) -> Self:
        receiver, chance = self, random.Random(self.seed)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                body = self.rfile.read(size)
                if len(body) < size:  # its steward was killed while it was sending
                    return
                status = 500 if chance.random() < _REFUSED_SHARE else 204
                receiver.take({key.lower(): value for key, value in self.headers.items()}, body, status)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
