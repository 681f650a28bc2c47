"""The ``outfill`` command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from redis.exceptions import RedisError
from rich.console import Console

from api_schemas.errors import Unavailable
from core.queue import trouble
from core.settings import Settings
from core.storage import Storage
from service import key_commands, profile_commands, seaweedfs, tenant_commands
from service.local import LocalStack, StackError, StackOptions, run_until_signal, settings_of
from service.rebuild import NoBackupKeyError, Rebuilder

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Outfill: fills, extends, erases and replaces parts of images.")
app.add_typer(key_commands.app, name="keys")
app.add_typer(tenant_commands.app, name="tenants")
app.add_typer(profile_commands.app, name="profiles")
_console = Console()


def _say(line: str) -> None:
    _console.print(line, highlight=False, soft_wrap=True)


Data = Annotated[Path, typer.Option(help="Where everything is kept between runs.")]


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address that the API listens at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the API.")] = 8000,
    data: Data = Path(".outfill"),
    api_key: Annotated[str | None, typer.Option(help="Default: the key of the last run, or a new one.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Paint workers.")] = 1,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    try:
        with LocalStack(StackOptions(data, host, port, api_key, workers), say=_say) as stack:
            _say(f"Outfill is up (reference: {stack.url}/docs). For another terminal:")
            _say(f"  export URL={stack.url}\n  export KEY={stack.api_key}")
            _say(f"  export OUTFILL_REDIS__URL={stack.environment()['OUTFILL_REDIS__URL']}   # for `outfill keys` and `outfill tenants`")
            _say(f"Webhooks are signed with {stack.webhook_secret}\nLogs are in {data.resolve() / 'logs'}")
            if host not in ("127.0.0.1", "localhost"):
                _say("The URLs of results lead to 127.0.0.1: only callers on this machine can open them (docs/operations.md).")
            if not stack.durable:
                _say(f"{data.resolve() / 's3'} is on a file system without synchronous files: {seaweedfs.NOT_DURABLE}.")
            _say("Ctrl-C stops everything; the data stays.")
            run_until_signal(stack)
            _console.print("Stopping; running jobs are finished first …")
    except StackError as error:
        _console.print(str(error), style="red", highlight=False)
        raise typer.Exit(1) from error


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("build/demo"),
    data: Data = Path("build/demo/stack"),
) -> None:
    """Edit real photos through the API of a local stack and say where the pictures are."""
    from service.demo import run_demo  # noqa: PLC0415 - the demo's photos come with the local extra

    raise typer.Exit(run_demo(out, data, _console))


@app.command()
def bucket() -> None:
    """Create the bucket of the settings in the object store, where it is missing."""
    settings = Settings.read()
    made = Storage(settings.s3).create_bucket()
    _say(f"The bucket {settings.s3.bucket} {'is made' if made else 'is there'}.")


LocalData = Annotated[Path | None, typer.Option("--data", help="That of a local stack; default: what OUTFILL_* say.")]


def _rebuilder(data: Path | None) -> Rebuilder:
    if data is not None:
        try:
            os.environ.update(settings_of(data))
        except StackError as error:
            raise typer.BadParameter(str(error), param_hint="--data") from error
    return Rebuilder(Settings.read())


@app.command()
def rebuild(data: LocalData = None) -> None:
    """Rebuild a lost Redis from the bucket: keys, tenants, endpoints, uploads, and jobs that had ended. What is there stays."""
    try:
        done = _rebuilder(data).rebuild()
    except (NoBackupKeyError, ValueError) as error:
        _console.print(str(error), style="red", highlight=False)
        raise typer.Exit(1) from error
    _say(f"Back: {done.jobs} jobs that had ended, {done.keys} keys, {done.endpoints} webhook endpoints, {done.uploads} uploads.")
    for key in done.unreadable:
        _say(f"{key} is no record that this release can read; it stays.")
    _say("Lost: jobs that had not ended, idempotency keys, webhooks not yet sent and their log, event streams, usage (docs/operations.md).")
    _say("Next: outfill doctor --repair deletes what jobs that are lost have left in the bucket.")
    raise typer.Exit(1 if done.unreadable else 0)


@app.command()
def doctor(
    data: LocalData = None,
    repair: Annotated[bool, typer.Option("--repair", help="Delete objects that no record names.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Compare records with objects, both ways; ends with 1 where they differ."""
    rebuilder = _rebuilder(data)
    found = rebuilder.examine()
    told = (
        (found.orphans, "objects that no record names"),
        (found.missing, "objects that a record names and that are not there"),
        (found.lost, "archived records of jobs that Redis does not know"),
        (found.unreadable, "records that this release cannot read"),
    )
    _say(f"{found.jobs} jobs have records.")
    for items, what in told:
        _say(f"{len(items)} {what}" + "".join(f"\n  {item}" for item in items[:20]) + ("\n  …" if len(items) > 20 else ""))
    left = sum(len(items) for items, _ in told)
    if repair:
        try:
            left -= (deleted := rebuilder.repair(found))
        except ValueError as error:
            _console.print(str(error), style="red", highlight=False)
            raise typer.Exit(1) from error
        _say(f"Deleted {deleted} objects.")
    raise typer.Exit(1 if left else 0)


@app.command("models", add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def models(context: typer.Context) -> None:
    """Fetch models into the store, list them, verify them: `outfill models --help`."""
    # A process of its own: the service never imports the worker.
    command = [sys.executable, "-m", "worker", "models", *context.args]
    raise typer.Exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - our own command


def main() -> None:
    """Run a command. What is wrong with the surroundings is one line."""
    try:
        app()
    except RedisError as error:
        address, said = Settings.read().redis.url.get_secret_value().rpartition("@")[2], trouble(error)
        _console.print(f"Redis at {address}: {said} ({error})", style="red", highlight=False, markup=False, emoji=False)
        if said.startswith("unavailable"):
            _console.print("Set OUTFILL_REDIS__URL to that of the service; `outfill up` prints it.", highlight=False)
        raise SystemExit(1) from None
    except Unavailable as error:
        _console.print(
            f"{error}: see above what it said. The settings are OUTFILL_S3__*; of a local stack, --data DIR has them.",
            style="red",
            highlight=False,
        )
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
