"""``outfill tenants``: what a tenant has of its own, where the settings are not to hold for it."""

from __future__ import annotations

from inspect import signature
from typing import Annotated

import typer

from core import queue
from core.jobs import JobRecords
from core.settings import Settings
from service.key_commands import Tenant, tenant_name

app = typer.Typer(
    no_args_is_help=True, help="Limits and times to live of one tenant. They hold at once, and for the jobs that end from then on."
)


def _records() -> JobRecords:
    settings = Settings.read()
    return JobRecords.of(queue.connect(settings.redis), settings)


@app.command("set")
def set_(
    tenant: Tenant,
    queued_jobs: Annotated[int | None, typer.Option(min=0, help="Jobs that may wait; 0: any number.")] = None,
    queued_bytes: Annotated[int | None, typer.Option(min=0, help="Bytes of their requests in Redis; 0: any number.")] = None,
    running_jobs: Annotated[int | None, typer.Option(min=0, help="Jobs that workers may hold at once; 0: any number.")] = None,
    ended_jobs: Annotated[int | None, typer.Option(min=0, help="Jobs that succeeded or failed and are kept; 0: any number.")] = None,
    ended_bytes: Annotated[int | None, typer.Option(min=0, help="Bytes that they may take in Redis; 0: any number.")] = None,
    canceled_jobs: Annotated[
        int | None, typer.Option(min=0, help="Jobs that were canceled or expired and are kept; 0: any number.")
    ] = None,
    canceled_bytes: Annotated[int | None, typer.Option(min=0, help="Bytes that they may take in Redis; 0: any number.")] = None,
    leaving_bytes: Annotated[
        int | None,
        typer.Option(min=0, help="Bytes of jobs beyond these that are not deleted yet, above which new ones are refused; 0: any number."),
    ] = None,
    stored_bytes: Annotated[
        int | None, typer.Option(min=0, help="Bytes of inputs and outputs of jobs that have ended; 0: any number.")
    ] = None,
    reservations: Annotated[int | None, typer.Option(min=0, help="Idempotency keys that wait for their job; 0: any number.")] = None,
    uploads: Annotated[int | None, typer.Option(min=0, help="Uploads that have not expired; 0: any number.")] = None,
    upload_bytes: Annotated[int | None, typer.Option(min=0, help="Bytes of them; 0: any number.")] = None,
    deliveries: Annotated[
        int | None, typer.Option(min=0, help="Deliveries of webhooks that are kept after their end; 0: any number.")
    ] = None,
    pings: Annotated[int | None, typer.Option(min=0, help="Test events that may wait for one endpoint; 0: any number.")] = None,
    records_s: Annotated[int | None, typer.Option(min=0, help="How long jobs that have ended are kept.")] = None,
    inputs_s: Annotated[int | None, typer.Option(min=0, help="How long their inputs are.")] = None,
    outputs_s: Annotated[int | None, typer.Option(min=0, help="How long their outputs are.")] = None,
) -> None:
    """Set what is named; the rest stays."""
    wished = {name: value for name, value in locals().items() if name != "tenant"}
    _records().set_policy(tenant_name(tenant), {name: value for name, value in wished.items() if value is not None})
    show(tenant)


_NAMES = tuple(name for name in signature(set_).parameters if name != "tenant")


@app.command()
def reset(
    tenant: Tenant, name: Annotated[list[str], typer.Argument(help="Such as `queued_jobs`; from then on the settings hold.")]
) -> None:
    """Go back to the settings."""
    names = [each.replace("-", "_") for each in name]
    if unknown := sorted(set(names) - set(_NAMES)):
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(_NAMES)}")
    _records().set_policy(tenant_name(tenant), dict.fromkeys(names))
    show(tenant)


@app.command()
def show(tenant: Tenant) -> None:
    """Show what the tenant has of its own."""
    policy = _records().policy(tenant_name(tenant))
    for name, value in sorted(policy.items()):
        if name != "webhook_secret":
            typer.echo(f"{name}  {value}")
    if not policy:
        typer.echo("nothing: the settings hold")
