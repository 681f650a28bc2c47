"""``outfill tenants``: what a tenant has of its own, where the settings are not to hold for it."""

from __future__ import annotations

from typing import Annotated

import typer

from core import queue
from core.jobs import JobRecords
from core.settings import Settings
from service.key_commands import Tenant, tenant_name

app = typer.Typer(
    no_args_is_help=True, help="Limits and times to live of one tenant. They hold at once, and for the jobs that end from then on."
)


_NAMES = ("queued_jobs", "running_jobs", "records_s", "inputs_s", "outputs_s")


def _records() -> JobRecords:
    settings = Settings()
    return JobRecords.of(queue.connect(settings.redis), settings.retention)


@app.command("set")
def set_(
    tenant: Tenant,
    queued_jobs: Annotated[int | None, typer.Option(min=0, help="Jobs that may wait; 0: any number.")] = None,
    running_jobs: Annotated[int | None, typer.Option(min=0, help="Jobs that workers may hold at once; 0: any number.")] = None,
    records_s: Annotated[int | None, typer.Option(min=0, help="How long jobs that have ended are kept.")] = None,
    inputs_s: Annotated[int | None, typer.Option(min=0, help="How long their inputs are.")] = None,
    outputs_s: Annotated[int | None, typer.Option(min=0, help="How long their outputs are.")] = None,
) -> None:
    """Set what is named; the rest stays."""
    wished = {
        "queued_jobs": queued_jobs,
        "running_jobs": running_jobs,
        "records_s": records_s,
        "inputs_s": inputs_s,
        "outputs_s": outputs_s,
    }
    _records().set_policy(tenant_name(tenant), {name: value for name, value in wished.items() if value is not None})
    show(tenant)


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
