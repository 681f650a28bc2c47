"""API keys: made, kept as hashes in Redis, looked up, revoked; and those that the settings name.

Keys: ``outfill:key:{sha256}`` (hash), ``outfill:keys`` (id to SHA-256), ``outfill:keys:used`` (id to time), ``outfill:rate:{id}`` (the bucket of
requests). Whoever reads them cannot call: a key is 240 random bits, of which only the SHA-256 is kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast

import redis

from api_schemas.access import Scope
from api_schemas.jobs import new_id, utc_now
from core.jobs import KEYS, USAGE_TTL_S, key_record_key
from core.queue import lua
from core.settings import ApiKey, Settings
from service.usage import today

USED = "outfill:keys:used"
_SHOWN = 11
"""Letters of a key by which its owner recognises it; 31 others stay unknown."""

_SCOPES = frozenset(Scope)
"""Those that this release knows; of others it demands none."""

Verdict = Literal["admitted", "limited", "unknown", "revoked", "expired"]


def new_key() -> str:
    """A random API key."""
    return f"of_{secrets.token_urlsafe(30)}"


def new_webhook_secret() -> str:
    """A random secret for Standard Webhooks."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def hash_key(key: str) -> str:
    """How a key is kept. Keys are random and long, so that a plain hash suffices."""
    return hashlib.sha256(key.encode()).hexdigest()


def settings_entry(tenant: str, key: str, webhook_secret: str, *, requests_per_minute: int | None = None) -> dict[str, str | int]:
    """One element of ``OUTFILL_AUTH__KEYS``."""
    limit = {} if requests_per_minute is None else {"requests_per_minute": requests_per_minute}
    return {"tenant": tenant, "key_sha256": hash_key(key), "webhook_secret": webhook_secret, **limit}


@dataclass(frozen=True)
class NewKey:
    """What a key is made with."""

    tenant: str
    name: str
    scopes: tuple[Scope, ...] = tuple(Scope)
    expires_at: datetime | None = None
    requests_per_minute: int | None = None
    """``None``: the default of the settings; 0: any number."""


@dataclass(frozen=True)
class KeyRecord:
    """A key as it is kept: all but the key."""

    id: str
    prefix: str
    made: NewKey
    created_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None

    def is_good(self, now: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.made.expires_at is None or self.made.expires_at > now)


@dataclass(frozen=True)
class Admission:
    """What became of one request's key."""

    verdict: Verdict
    key_id: str = ""
    tenant: str = ""
    scopes: frozenset[str] = field(default_factory=frozenset)
    limit: int = 0
    """Requests a minute; 0: any number."""
    left: int = 0
    full_ms: int = 0
    """Until all of ``limit`` may be made at once again."""
    wait_ms: int = 0
    """Until the next request is let in, where this one is not."""


class KeyRing:
    """All keys that open this service, whether Redis has them or the settings. Thread-safe."""

    def __init__(self, connection: redis.Redis, settings: Settings) -> None:
        self._redis = connection
        self._named = settings.auth.keys
        self._requests_per_minute = settings.limits.requests_per_minute
        self._admit = connection.register_script(lua("admit"))

    def admit(self, presented: str) -> Admission:
        """Look a presented key up, and let its request in if it is good and within its rate. One round trip, and nothing is remembered:
        a key that was revoked opens nothing from then on.
        """
        digest = hash_key(presented)
        named = self._find_named(digest)
        limit = self._requests_per_minute if named is None or named.requests_per_minute is None else named.requests_per_minute
        answer = self._admit(keys=[key_record_key(digest), USED], args=[named_id(named) if named else "", limit, today(), USAGE_TTL_S])
        verdict, key_id, tenant, scopes = (item.decode() for item in cast("list[bytes]", answer[:4]))
        return Admission(
            cast("Verdict", verdict),
            key_id,
            named.tenant if named else tenant,
            frozenset(named.scopes) if named else frozenset(scopes.split()),
            *(int(number) for number in answer[4:8]),
        )

    def _find_named(self, digest: str) -> ApiKey | None:
        """The settings' entry. Takes the same time for every digest."""
        found = None
        for entry in self._named:
            if hmac.compare_digest(entry.key_sha256, digest):
                found = entry
        return found

    def create(self, wanted: NewKey) -> tuple[str, KeyRecord]:
        """Make a key. It is returned here and kept nowhere."""
        key, now = new_key(), utc_now()
        record = KeyRecord(new_id("key"), key[:_SHOWN], wanted, now)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(key_record_key(hash_key(key)), mapping=_fields(record))
            pipe.hset(KEYS, record.id, hash_key(key))
            pipe.execute()
        return key, record

    def records(self) -> list[KeyRecord]:
        """All keys that were created, oldest first, those that were revoked too."""
        index = cast("dict[bytes, bytes]", self._redis.hgetall(KEYS))
        used = cast("dict[bytes, bytes]", self._redis.hgetall(USED))
        with self._redis.pipeline(transaction=False) as pipe:
            for key_id in sorted(index):
                pipe.hgetall(key_record_key(index[key_id].decode()))
            return [_record(fields, used.get(fields[b"id"])) for fields in pipe.execute() if fields]

    def named(self) -> list[tuple[str, ApiKey]]:
        """The settings' keys by their ids."""
        return [(named_id(entry), entry) for entry in self._named]

    def last_used(self, key_id: str) -> datetime | None:
        """When a key was last let in, or kept out for its rate."""
        used = cast("bytes | None", self._redis.hget(USED, key_id))
        return _moment(used.decode() if used else None)

    def is_good(self, key_id: str) -> bool:
        """Whether a key that was let in would be let in still, its rate aside; by Redis' clock, as when it was let in."""
        if any(known == key_id for known, _ in self.named()):
            return True
        digest = cast("bytes | None", self._redis.hget(KEYS, key_id))
        if digest is None:
            return False
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(key_record_key(digest.decode()))
            pipe.time()
            fields, (seconds, _) = pipe.execute()
        return bool(fields) and _record(fields, None).is_good(datetime.fromtimestamp(seconds, UTC))

    def revoke(self, key_id: str) -> bool:
        """Shut a key out for good, from the next request on. False: no key has this id."""
        digest = cast("bytes | None", self._redis.hget(KEYS, key_id))
        if digest is None:
            return False
        self._redis.hsetnx(key_record_key(digest.decode()), "revoked_ms", str(_milliseconds(utc_now())))
        return True


def named_id(entry: ApiKey) -> str:
    """The id of a settings' key: the same in every process, and it tells nothing of the key."""
    return f"set_{entry.key_sha256[:12]}"


def _fields(record: KeyRecord) -> dict[Any, Any]:
    made = record.made
    fields: dict[Any, Any] = {
        "id": record.id,
        "prefix": record.prefix,
        "tenant": made.tenant,
        "name": made.name,
        "scopes": " ".join(made.scopes),
        "created_ms": _milliseconds(record.created_at),
    }
    if made.expires_at is not None:
        fields["expires_ms"] = _milliseconds(made.expires_at)
    if made.requests_per_minute is not None:
        fields["requests_per_minute"] = made.requests_per_minute
    return fields


def _record(fields: dict[bytes, bytes], used_ms: bytes | None) -> KeyRecord:
    text = {key.decode(): value.decode() for key, value in fields.items()}
    limit = text.get("requests_per_minute")
    made = NewKey(
        text["tenant"],
        text["name"],
        tuple(Scope(scope) for scope in text["scopes"].split() if scope in _SCOPES),
        _moment(text.get("expires_ms")),
        int(limit) if limit is not None else None,
    )
    return KeyRecord(
        text["id"],
        text["prefix"],
        made,
        cast("datetime", _moment(text["created_ms"])),
        _moment(used_ms.decode() if used_ms else None),
        _moment(text.get("revoked_ms")),
    )


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _moment(milliseconds: str | None) -> datetime | None:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC) if milliseconds else None
