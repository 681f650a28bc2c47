"""Delivers webhooks from the outbox, signed by Standard Webhooks, until each is accepted or given up."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import structlog
from pydantic import SecretStr
from redis.exceptions import RedisError
from standardwebhooks.webhooks import Webhook

from api_schemas.errors import RecordUnreadable, WebhookNotFound
from api_schemas.events import PingData, PingPayload, WebhookPayload, WebhookRow, status_after
from api_schemas.jobs import utc_now
from api_schemas.requests import JobEvent
from api_schemas.webhooks import Attempt
from core import outbound
from core.events import Endpoints, Outbox
from core.jobs import JobRecords, public
from core.settings import Settings
from core.storage import Storage
from worker.steward_metrics import StewardMetrics

_log = structlog.get_logger(__name__)
_GONE = 410
_LEASE_MARGIN_S = 15.0
_MAX_RETRY_AFTER_S = 86400.0
_LONGEST_RETRY_AFTER = 64
"""In letters: a date has 29."""


@dataclass(frozen=True)
class Receiver:
    """Whom a webhook goes to, as of now."""

    url: str
    secrets: tuple[SecretStr, ...]
    """All of them sign."""


class NoSense(Exception):
    """There is nothing to send, or nobody to send it to."""


class Dispatcher:
    """Sends what is due. A slow receiver holds up its own few places and no other's."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        endpoints: Endpoints,
        records: JobRecords,
        storage: Storage,
        metrics: StewardMetrics,
    ) -> None:
        self._settings, self._limits = settings, settings.webhooks
        self._outbox, self._endpoints, self._records, self._storage, self._metrics = outbox, endpoints, records, storage, metrics
        self._secrets = {key.tenant: key.webhook_secret for key in settings.auth.keys}
        self._sending: dict[asyncio.Task[None], str] = {}
        """The lane of each attempt that is being made."""
        self._place_free = asyncio.Event()

    async def run(self, active: asyncio.Event, stopping: asyncio.Event) -> None:
        """Send while this steward is the active one, until told to stop; then finish what is being sent."""
        async with outbound.client(self._settings.outbound) as http:
            while not stopping.is_set():
                self._place_free.clear()
                if active.is_set():
                    await self._send_due(http)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.poll_s):
                        await self._place_free.wait()
            if self._sending:
                await asyncio.wait(self._sending)

    async def _send_due(self, http: httpx.AsyncClient) -> None:
        room = self._limits.concurrency - len(self._sending)
        if room < 1:
            return
        try:
            rows = await asyncio.to_thread(
                self._outbox.lease,
                room,
                self._settings.outbound.timeout_s + _LEASE_MARGIN_S,
                in_flight=Counter(self._sending.values()),
                of_lane=self._limits.concurrency_per_endpoint,
                of_tenant=self._limits.concurrency_per_tenant,
                spare=self._limits.concurrency // 4,
            )
        except Exception:  # a round is lost, the outbox is not
            _log.warning("outbox_unreachable", exc_info=True)
            return
        for row in rows:
            task = asyncio.create_task(self._send(http, row))
            self._sending[task] = row.lane
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        self._place_free.set()

    async def _send(self, http: httpx.AsyncClient, row: WebhookRow) -> None:
        try:
            await self._attempt(http, row)
        except Exception:
            _log.exception("webhook_attempt_broke", webhook=row.id, job=row.event.job_id)
            with suppress(RedisError):  # if this fails too its lease lapses, and it comes again
                await asyncio.to_thread(self._settle, row, "broke", None, _attempt(utc_now(), 0.0, error="internal error"))

    async def _attempt(self, http: httpx.AsyncClient, row: WebhookRow) -> None:
        at, began = utc_now(), time.perf_counter()
        try:
            receiver = await asyncio.to_thread(self._receiver, row)
            body = await asyncio.to_thread(self._body, row)
        except WebhookNotFound:  # its owner deleted the endpoint
            await asyncio.to_thread(self._outbox.drop, row)
            return
        except RecordUnreadable:  # no attempt of the receiver's: it comes again when its lease lapses, to a steward that can read the job
            return
        except NoSense as error:
            _log.info("webhook_given_up", webhook=row.id, job=row.event.job_id, tenant=row.event.tenant, reason=str(error))
            await asyncio.to_thread(self._give_up, row, _attempt(at, 0.0, error=str(error)))
            return
        answer: httpx.Response | None = None
        with outbound.following() as progress:
            try:
                async with asyncio.timeout(self._settings.outbound.timeout_s):
                    async with http.stream("POST", receiver.url, content=body, headers=_headers(row, receiver, body)) as answer:
                        pass  # status and headers tell; the body is the receiver's own and is not read
                outcome = "delivered" if answer.is_success else "gone" if answer.status_code == _GONE else "refused"
                reason = (
                    None if answer.is_success else "redirects are not followed" if answer.is_redirect else f"answered {answer.status_code}"
                )
            except (httpx.HTTPError, *outbound.BAD_REDIRECT, TimeoutError) as fault:
                outcome, reason = _fault(fault, progress)
        status = answer.status_code if answer is not None else None
        self._metrics.webhook_attempts.labels(outcome).inc()
        _log.info(
            "webhook_attempt",
            webhook=row.id,
            job=row.event.job_id,
            webhook_event=row.event.type,
            attempt=row.attempts + 1,
            outcome=outcome,
            status=status,
        )
        told = _attempt(at, time.perf_counter() - began, status=status, error=reason)
        await asyncio.to_thread(self._settle, row, outcome, answer, told)

    def _receiver(self, row: WebhookRow) -> Receiver:
        """Raises ``NoSense``, and ``WebhookNotFound`` for an endpoint that was deleted."""
        if row.endpoint is not None:
            endpoint = self._endpoints.get(row.event.tenant, row.endpoint)
            if not endpoint.enabled:
                raise NoSense("the endpoint is disabled")
            return Receiver(endpoint.url, endpoint.signing(utc_now()))
        secret = self._tenant_secret(row.event.tenant)
        if secret is None or row.url is None:
            raise NoSense("the tenant has no webhook secret")
        return Receiver(row.url, (secret,))

    def _tenant_secret(self, tenant: str) -> SecretStr | None:
        """Of the settings, or what was made with the tenant's first key."""
        kept = self._records.policy(tenant).get("webhook_secret")
        return self._secrets.get(tenant) or (SecretStr(kept) if kept else None)

    def _body(self, row: WebhookRow) -> bytes:
        """The payload, with URLs that are new each time. Raises ``NoSense``."""
        event = row.event
        if not isinstance(event.type, JobEvent):
            return PingPayload(timestamp=event.occurred_at, data=PingData(endpoint=row.endpoint or "")).model_dump_json().encode()
        record = self._records.find(event.job_id or "")
        if record is None:
            raise NoSense("the job was deleted")
        job = public(record, self._storage, root_path=self._settings.http.root_path, status=status_after(event.type))
        return WebhookPayload(type=event.type, timestamp=event.occurred_at, sequence=row.seq, data=job).model_dump_json().encode()

    def _settle(self, row: WebhookRow, outcome: str, answer: httpx.Response | None, attempt: Attempt) -> None:
        delays = self._limits.retry_delays_s
        if outcome == "delivered":
            self._outbox.delivered(row, attempt)
            return
        if outcome == "gone" and row.endpoint is not None:
            self._disable(row.event.tenant, row.endpoint)
        if outcome in ("gone", "denied") or row.attempts >= len(delays):
            self._give_up(row, attempt)
        else:
            asked = _retry_after_s(answer) if answer is not None else 0.0
            # Jitter spreads receivers' load after an outage; it only ever adds, so that the schedule is a floor.
            self._outbox.put_off(row, max(delays[row.attempts] * random.uniform(1.0, 1.2), asked), attempt)  # noqa: S311

    def _give_up(self, row: WebhookRow, attempt: Attempt) -> None:
        self._outbox.bury(row, attempt)
        self._metrics.given_up.inc()

    def _disable(self, tenant: str, endpoint_id: str) -> None:
        with suppress(WebhookNotFound):
            gone = {"enabled": False, "disabled_reason": "gone"}
            self._endpoints.change(tenant, endpoint_id, lambda endpoint: endpoint.model_copy(update=gone))
            _log.warning("webhook_endpoint_disabled", tenant=tenant, endpoint=endpoint_id)


def _headers(row: WebhookRow, receiver: Receiver, body: bytes) -> dict[str, str]:
    """The id is the same over all attempts, the timestamp is new."""
    now = datetime.now(UTC)
    signatures = (Webhook(secret.get_secret_value()).sign(row.id, now, body.decode()) for secret in receiver.secrets)
    return {
        "content-type": "application/json",
        "webhook-id": row.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _attempt(at: datetime, seconds: float, *, status: int | None = None, error: str | None = None) -> Attempt:
    return Attempt(at=at, status_code=status, error=error, duration_ms=round(seconds * 1000))


def _fault(fault: Exception, progress: outbound.Progress) -> tuple[str, str]:
    """Why nothing was answered: the outcome, and in the owner's words."""
    if isinstance(fault, outbound.BAD_REDIRECT):
        return "refused", "redirects are not followed"
    denied = isinstance(fault, httpx.HTTPError) and outbound.is_denied(fault)
    # A host that leads nowhere may lead somewhere by the next attempt.
    return "denied" if denied else "unreachable", outbound.why(fault, progress)


def _retry_after_s(answer: httpx.Response) -> float:
    """What ``Retry-After`` asks for, in seconds or as a date, a day at most; 0 where it is absent or makes no sense."""
    text = answer.headers.get("retry-after", "")[:_LONGEST_RETRY_AFTER]
    if text.isascii() and text.isdigit():
        return min(float(text), _MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the latter for a time zone beyond all bounds
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), _MAX_RETRY_AFTER_S)
