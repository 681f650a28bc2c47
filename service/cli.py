"""The ``outfill`` command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from redis.exceptions import RedisError
from rich.console import Console

from core.settings import Settings
from service import key_commands, profile_commands, tenant_commands
from service.local import LocalStack, StackError, StackOptions, run_until_signal

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
        _console.print(
            f"{Settings().redis.url.get_secret_value().rpartition('@')[2]} does not answer as a Redis: {error}",
            style="red",
            highlight=False,
        )
        _console.print("Set OUTFILL_REDIS__URL to that of the service; `outfill up` prints it.", highlight=False)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
