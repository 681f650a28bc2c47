"""Delivers webhooks from the outbox, signed by Standard Webhooks, until each is accepted or given up."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import structlog
from redis.exceptions import RedisError
from standardwebhooks.webhooks import Webhook

from api_schemas.events import TERMINAL_EVENTS, WebhookPayload, WebhookRow
from api_schemas.jobs import JobStatus
from core import outbound
from core.events import Outbox
from core.jobs import JobRecords, public
from core.settings import Settings
from core.storage import Storage
from worker.steward_metrics import StewardMetrics

_log = structlog.get_logger(__name__)
_GONE = 410
_LEASE_MARGIN_S = 15.0
_MAX_RETRY_AFTER_S = 86400.0
_STATUS = {event: status for status, event in TERMINAL_EVENTS.items()}


class Dispatcher:
    """Sends what is due. A slow receiver holds up one of ``concurrency`` places and nothing else."""

    def __init__(self, settings: Settings, outbox: Outbox, records: JobRecords, storage: Storage, metrics: StewardMetrics) -> None:
        self._settings = settings
        self._outbox, self._records, self._storage, self._metrics = outbox, records, storage, metrics
        self._secrets = {key.tenant: key.webhook_secret for key in settings.auth.keys}
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self, active: asyncio.Event, stopping: asyncio.Event) -> None:
        """Send while this steward is the active one, until told to stop; then finish what is being sent."""
        async with outbound.client(self._settings.outbound) as http:
            while not stopping.is_set():
                if active.is_set():
                    await self._send_due(http)
                await _sleep_unless(stopping, self._settings.webhooks.poll_s)
            if self._sending:
                await asyncio.wait(self._sending)

    async def _send_due(self, http: httpx.AsyncClient) -> None:
        room = self._settings.webhooks.concurrency - len(self._sending)
        if room < 1:
            return
        try:
            rows = await asyncio.to_thread(self._outbox.lease, room, self._settings.outbound.timeout_s + _LEASE_MARGIN_S)
        except Exception:  # a round is lost, the outbox is not
            _log.warning("outbox_unreachable", exc_info=True)
            return
        for row in rows:
            task = asyncio.create_task(self._send(http, row))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, http: httpx.AsyncClient, row: WebhookRow) -> None:
        try:
            await self._attempt(http, row)
        except Exception:
            _log.exception("webhook_attempt_broke", webhook=row.id, job=row.job_id)
            with suppress(RedisError):  # if this fails too its lease lapses, and it comes again
                await asyncio.to_thread(self._settle, row, "broke", None)

    async def _attempt(self, http: httpx.AsyncClient, row: WebhookRow) -> None:
        request = await asyncio.to_thread(self._signed, row)
        if request is None:
            _log.warning("webhook_without_job_or_secret", webhook=row.id, job=row.job_id, tenant=row.tenant)
            await asyncio.to_thread(self._outbox.bury, row)
            return
        body, headers = request
        answer: httpx.Response | None = None
        try:
            async with asyncio.timeout(self._settings.outbound.timeout_s):
                async with http.stream("POST", row.url, content=body, headers=headers) as answer:
                    pass  # status and headers tell; the body is the receiver's own and is not read
            outcome = "delivered" if answer.is_success else "gone" if answer.status_code == _GONE else "refused"
        except (httpx.HTTPError, TimeoutError) as error:
            denied = isinstance(error, httpx.HTTPError) and outbound.is_denied(error)
            outcome = "denied" if denied else "unreachable"
        self._metrics.webhook_attempts.labels(outcome).inc()
        status = answer.status_code if answer is not None else None
        _log.info(
            "webhook_attempt",
            webhook=row.id,
            job=row.job_id,
            webhook_event=row.event,
            attempt=row.attempts + 1,
            outcome=outcome,
            status=status,
        )
        await asyncio.to_thread(self._settle, row, outcome, answer)

    def _settle(self, row: WebhookRow, outcome: str, answer: httpx.Response | None) -> None:
        delays = self._settings.webhooks.retry_delays_s
        if outcome == "delivered":
            self._outbox.delivered(row)
        elif outcome in ("gone", "denied") or row.attempts >= len(delays):
            self._outbox.bury(row)
        else:
            asked = _retry_after_s(answer) if answer is not None else 0.0
            # Jitter spreads receivers' load after an outage; it only ever adds, so that the schedule is a floor.
            self._outbox.put_off(row, max(delays[row.attempts] * random.uniform(1.0, 1.2), asked))  # noqa: S311

    def _signed(self, row: WebhookRow) -> tuple[bytes, dict[str, str]] | None:
        """Body and headers of one attempt: the id is the same each time, the timestamp and the URLs inside are new."""
        record, secret = self._records.find(row.job_id), self._secrets.get(row.tenant)
        if record is None or secret is None:
            return None
        job = public(record, self._storage, status=_STATUS.get(row.event, JobStatus.RUNNING))
        body = WebhookPayload(type=row.event, timestamp=row.occurred_at, sequence=row.seq, data=job).model_dump_json()
        now = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "user-agent": "outfill-webhooks/1",
            "webhook-id": row.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret.get_secret_value()).sign(row.id, now, body),
        }
        return body.encode(), headers


def _retry_after_s(answer: httpx.Response) -> float:
    """What ``Retry-After`` asks for, in seconds or as a date; 0 where it is absent or makes no sense."""
    text = answer.headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return min(float(text), _MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), _MAX_RETRY_AFTER_S)


async def _sleep_unless(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
