"""Who is calling: bearer keys, of which only the hashes are known."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api_schemas.errors import Unauthenticated
from core.settings import ApiKey
from service.deps import Parts

_bearer = HTTPBearer(auto_error=False, description="An API key; `outfill keys new` makes one.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


@dataclass(frozen=True)
class Tenant:
    """An authenticated caller."""

    name: str


def hash_key(key: str) -> str:
    """How a key is kept. Keys are random and long, so that a plain hash suffices."""
    return hashlib.sha256(key.encode()).hexdigest()


def find_key(keys: tuple[ApiKey, ...], presented: str) -> ApiKey | None:
    """The entry of a presented key. Takes the same time for every key."""
    digest = hash_key(presented)
    found = None
    for entry in keys:
        if hmac.compare_digest(entry.key_sha256, digest):
            found = entry
    return found


def _caller(parts: Parts, credentials: Credentials) -> Tenant:
    if credentials is None:
        raise Unauthenticated("send Authorization: Bearer <key>")
    entry = find_key(parts.settings.auth.keys, credentials.credentials)
    if entry is None:
        raise Unauthenticated("the key is not known")
    return Tenant(entry.tenant)


Caller = Annotated[Tenant, Depends(_caller)]


def _scraper(parts: Parts, credentials: Credentials) -> None:
    token = parts.settings.metrics.token
    presented = credentials.credentials if credentials else ""
    if token is None or not hmac.compare_digest(hash_key(token.get_secret_value()), hash_key(presented)):
        raise Unauthenticated("metrics need the bearer token of OUTFILL_METRICS__TOKEN")


Scraper = Depends(_scraper)
