"""Who is calling, and whether it may: a bearer key with a scope. A route says what it demands by the type of its ``caller``."""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from api_schemas.access import Scope
from api_schemas.errors import MissingScope, RateLimited, Unauthenticated
from service.deps import Parts
from service.keys import Admission, hash_key

_log = structlog.get_logger(__name__)
_bearer = HTTPBearer(auto_error=False, description="An API key; `outfill keys create` makes one.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
_REFUSALS = {"unknown": "the key is not known", "revoked": "the key was revoked", "expired": "the key has expired"}


@dataclass(frozen=True)
class Tenant:
    """An authenticated caller."""

    name: str
    key_id: str
    """Which of the tenant's keys it called with."""
    scopes: frozenset[str]
    """What that key may do."""


def _caller(request: Request, parts: Parts, credentials: Credentials, demanded: SecurityScopes) -> Tenant:
    if credentials is None:
        raise Unauthenticated("send Authorization: Bearer <key>")
    found = parts.keys.admit(credentials.credentials)
    request.state.key = {"key": found.key_id, "tenant": found.tenant} if found.key_id else {}
    request.state.rate_limit = rate_limit_headers(found)
    if found.verdict in _REFUSALS:
        client = request.client.host if request.client else None
        _log.warning("key_refused", why=found.verdict, client=client, method=request.method, path=request.url.path, **request.state.key)
        raise Unauthenticated(_REFUSALS[found.verdict])
    if found.verdict == "limited":
        wait_s = max(math.ceil(found.wait_ms / 1000), 1)
        raise RateLimited(f"the key may make {found.limit} requests a minute; the next one in {wait_s} s", retry_after_s=wait_s)
    for scope in demanded.scopes:
        if scope not in found.scopes:
            raise MissingScope(scope)
    request.state.tenant = found.tenant  # in whose name the body is taken in
    return Tenant(found.tenant, found.key_id, found.scopes)


def rate_limit_headers(found: Admission) -> dict[str, str]:
    """What a caller is told of its rate: the two fields of draft-ietf-httpapi-ratelimit-headers-10."""
    if not found.limit:
        return {}
    full_s = math.ceil(found.full_ms / 1000)
    return {"RateLimit-Policy": f'"requests";q={found.limit};w=60', "RateLimit": f'"requests";r={found.left};t={full_s}'}


JobsReader = Annotated[Tenant, Security(_caller, scopes=[Scope.JOBS_READ])]
JobsWriter = Annotated[Tenant, Security(_caller, scopes=[Scope.JOBS_WRITE])]
JobsRepeater = Annotated[Tenant, Security(_caller, scopes=[Scope.JOBS_READ, Scope.JOBS_WRITE])]
"""What a repetition paints tells of the job that it repeats."""
UploadsWriter = Annotated[Tenant, Security(_caller, scopes=[Scope.UPLOADS_WRITE])]
ModelsReader = Annotated[Tenant, Security(_caller, scopes=[Scope.MODELS_READ])]
WebhooksReader = Annotated[Tenant, Security(_caller, scopes=[Scope.WEBHOOKS_READ])]
WebhooksWriter = Annotated[Tenant, Security(_caller, scopes=[Scope.JOBS_READ, Scope.WEBHOOKS_WRITE])]
"""What an endpoint is told of all jobs its maker could read too."""
WebhooksChanger = Annotated[Tenant, Security(_caller, scopes=[Scope.JOBS_READ, Scope.WEBHOOKS_READ, Scope.WEBHOOKS_WRITE])]
"""The answer shows what another key registered or was sent."""
UsageReader = Annotated[Tenant, Security(_caller, scopes=[Scope.USAGE_READ])]


def _scraper(parts: Parts, credentials: Credentials) -> None:
    token = parts.settings.metrics.token
    if (
        token is None
        or credentials is None
        or not hmac.compare_digest(hash_key(token.get_secret_value()), hash_key(credentials.credentials))
    ):
        raise Unauthenticated("metrics need the bearer token of OUTFILL_METRICS__TOKEN")


Scraper = Depends(_scraper)
