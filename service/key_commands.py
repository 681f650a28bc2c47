"""``outfill keys``: make, list and revoke API keys, and see what each was used for."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from api_schemas.access import Scope
from core import queue
from core.jobs import JobRecords
from core.settings import TENANT_NAME, Settings
from service.columns import print_columns
from service.keys import KeyRecord, KeyRing, NewKey, new_key, new_webhook_secret, settings_entry
from service.usage import days_of

app = typer.Typer(no_args_is_help=True, help="API keys. They are kept in the Redis of OUTFILL_REDIS__URL.")
MAX_DAYS = 36_500
Tenant = Annotated[str, typer.Option(help="Whose jobs the key sees: lower-case letters, digits and hyphens.")]


def ring() -> KeyRing:
    """The keys of the service that the environment names."""
    settings = Settings.read()
    return KeyRing(queue.connect(settings.redis), settings)


def tenant_name(value: str) -> str:
    """A tenant that the API would know too; ends the command if not."""
    if not TENANT_NAME.fullmatch(value):
        raise typer.BadParameter("a tenant is 1 to 63 lower-case letters, digits and hyphens, the first no hyphen")
    return value


@app.command()
def create(
    tenant: Tenant,
    name: Annotated[str, typer.Option(help="What the key is for; shown in lists and logs.")] = "",
    scope: Annotated[list[Scope] | None, typer.Option(help="May be given several times. Default: all.")] = None,
    expires_in_days: Annotated[float | None, typer.Option(min=0, max=MAX_DAYS, help="Default: never.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=0, help="0: any number. Default: that of the settings.")] = None,
) -> None:
    """Make a key. It is shown once and kept nowhere; it works at once."""
    if expires_in_days is not None and math.isnan(expires_in_days):
        raise typer.BadParameter("it is a number of days", param_hint="--expires-in-days")
    expires_at = None if expires_in_days is None else datetime.now(UTC) + timedelta(days=expires_in_days)
    scopes = tuple(dict.fromkeys(scope)) if scope else tuple(Scope)
    settings = Settings.read()
    connection = queue.connect(settings.redis)
    key, record = KeyRing(connection, settings).create(NewKey(tenant_name(tenant), name, scopes, expires_at, requests_per_minute))
    typer.echo(f"id   {record.id}\nkey  {key}")
    if secret := _first_webhook_secret(JobRecords.of(connection, settings), settings, tenant):
        typer.echo(f"webhook secret  {secret}  (of the tenant; this is its first key)")


@app.command("list")
def list_() -> None:
    """List all keys: those made here, and those of OUTFILL_AUTH__KEYS."""
    rows = [("id", "begins", "tenant", "name", "scopes", "state", "last used", "requests a minute")]
    keys = ring()
    for record in keys.records():
        made = record.made
        limit = "default" if made.requests_per_minute is None else str(made.requests_per_minute)
        rows.append(
            (record.id, record.prefix, made.tenant, made.name, _scopes(made.scopes), _state(record), _when(record.last_used_at), limit)
        )
    for key_id, entry in keys.named():
        limit = "default" if entry.requests_per_minute is None else str(entry.requests_per_minute)
        rows.append((key_id, "", entry.tenant, "of the settings", _scopes(entry.scopes), "good", _when(keys.last_used(key_id)), limit))
    print_columns(rows)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="As `outfill keys list` shows it.")]) -> None:
    """Shut a key out for good, in every API process, from the next request on."""
    if not ring().revoke(key_id):
        typer.echo(f"no key {key_id}; a key of the settings goes with its entry", err=True)
        raise typer.Exit(1)
    typer.echo(f"{key_id} is revoked")


@app.command()
def usage(
    key_id: Annotated[str, typer.Argument(help="As `outfill keys list` shows it.")], days: Annotated[int, typer.Option(min=1, max=400)] = 31
) -> None:
    """Show what a key was used for, by day (UTC)."""
    settings, until = Settings.read(), datetime.now(UTC).date()
    connection = queue.connect(settings.redis)
    keys = KeyRing(connection, settings)
    if key_id not in {*(record.id for record in keys.records()), *(known for known, _ in keys.named())}:
        typer.echo(f"no key {key_id}; `outfill keys list` shows them", err=True)
        raise typer.Exit(1)
    rows = [("day", "requests", "jobs", "images", "megapixels")]
    found = days_of(connection, key_id, until - timedelta(days=days - 1), until)
    rows += [(day.day.isoformat(), str(day.requests), str(day.jobs), str(day.images), f"{day.megapixels:g}") for day in found]
    print_columns(rows)


@app.command("new")
def new(tenant: Tenant = "default") -> None:
    """Make a key for OUTFILL_AUTH__KEYS instead, where there is no Redis yet. It is shown once and kept nowhere."""
    key, secret = new_key(), new_webhook_secret()
    typer.echo(f"key             {key}\nwebhook secret  {secret}")
    typer.echo(f"settings        OUTFILL_AUTH__KEYS='[{json.dumps(settings_entry(tenant, key, secret))}]'")


def _first_webhook_secret(records: JobRecords, settings: Settings, tenant: str) -> str | None:
    """What a new tenant's webhooks are signed with; ``None`` where it has a secret already."""
    if any(entry.tenant == tenant for entry in settings.auth.keys) or "webhook_secret" in records.policy(tenant):
        return None
    secret = new_webhook_secret()
    records.set_policy(tenant, {"webhook_secret": secret})
    return secret


def _scopes(scopes: tuple[Scope, ...]) -> str:
    return "all" if set(scopes) == set(Scope) else " ".join(scopes)


def _state(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return f"revoked {_when(record.revoked_at)}"
    if record.made.expires_at is None:
        return "good"
    return f"{'good until' if record.is_good(datetime.now(UTC)) else 'expired'} {_when(record.made.expires_at)}"


def _when(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
