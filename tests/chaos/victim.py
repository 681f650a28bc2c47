"""``python -m tests.chaos.victim paint | steward``: a worker or a steward that ends at named points when told, on a clock that may be wrong.

What it wraps, it wraps from outside: the product knows of none of this.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import redis.client
import rq.utils

import api_schemas.jobs
import core.events
import core.jobs
import core.queue
import worker.__main__
import worker.claims
import worker.outputs
import worker.paint
import worker.steward

from .points import CLOCK, DIRECTORY, POISON, Faults

_BOOKKEEPING = ("rq:wip:", "rq:job:", "outfill:outbox", "outfill:webhook:")


def main() -> int:
    """Run the process; its exit status."""
    faults = Faults(Path(os.environ[DIRECTORY]))
    _wrap_worker(faults)
    _wrap_steward(faults)
    _wrap_transactions(faults)
    wrong_s = float(os.environ.get(CLOCK, "0"))
    paints = "paint" in sys.argv
    _shift_clock(lambda: wrong_s + (faults.clock_step_s() if paints else 0.0))
    return worker.__main__.main(sys.argv[1:])


def _after(owner: Any, name: str, then: Callable[[Any, tuple[Any, ...]], None]) -> None:
    """Call ``then`` with the result and the arguments of each call of ``owner.name``, before it returns."""
    call = getattr(owner, name)

    @wraps(call)
    def wrapped(*args: Any, **named: Any) -> Any:
        result = call(*args, **named)
        then(result, args)
        return result

    setattr(owner, name, wrapped)


def _before(owner: Any, name: str, first: Callable[[tuple[Any, ...]], None]) -> None:
    """Call ``first`` with the arguments before each call of ``owner.name``."""
    call = getattr(owner, name)

    @wraps(call)
    def wrapped(*args: Any, **named: Any) -> Any:
        first(args)
        return call(*args, **named)

    setattr(owner, name, wrapped)


def _wrap_worker(faults: Faults) -> None:
    def painted(args: tuple[Any, ...]) -> None:
        spec = args[1].spec
        if POISON in spec.request.metadata:
            faults.strike(POISON, "kill", spec.id)
        faults.reached("paint", spec.id)

    _after(core.queue.JobQueue, "claim", lambda taken, _: faults.reached("claim", taken[0][1]) if taken else None)
    _after(worker.claims.Claims, "_adopt", lambda lease, _: faults.reached("adopt", lease.spec.id) if lease else None)
    _before(worker.paint.PaintWorker, "_compose", painted)
    _after(worker.outputs, "store", lambda _, args: faults.reached("put", args[1].id))
    _after(core.jobs.JobRecords, "commit", lambda commit, args: faults.reached("commit", args[1].id) if commit == "committed" else None)


def _wrap_steward(faults: Faults) -> None:
    _before(core.events.Outbox, "delivered", lambda args: faults.reached("outbox", args[1].id))
    # An API that died while it accepted a job would be found out after ten minutes; that is longer than the harness waits.
    worker.steward.ACCEPTANCE_LIMIT = timedelta(seconds=30)


def _wrap_transactions(faults: Faults) -> None:
    """At the point ``transaction`` everything but the EXEC is sent: the server must forget it all."""
    execute = redis.client.Pipeline._execute_transaction

    def wrapped(self: Any, connection: Any, commands: Any, raise_on_error: Any) -> Any:
        path = faults.armed("transaction")
        touched = [str(argument) for args, _ in commands for argument in args if str(argument).startswith(_BOOKKEEPING)]
        if path is not None and touched and faults.take(path):
            connection.send_packed_command(connection.pack_commands([("MULTI",), *(args for args, _ in commands)]))
            faults.strike("transaction", path.name.split(".")[1], touched[0])
            connection.disconnect()  # only a SIGTERM comes back here; without its EXEC the server drops what was sent
            connection.connect()
        return execute(self, connection, commands, raise_on_error)

    setattr(redis.client.Pipeline, "_execute_transaction", wrapped)  # noqa: B010 - mypy knows it as a method


def _shift_clock(wrong_s: Callable[[], float]) -> None:
    """Everything of ours and of RQ's tells a time that is wrong by as many seconds; what S3 is signed with stays right."""
    true_time = time.time
    time.time = lambda: true_time() + wrong_s()
    for function, wrong in (
        (rq.utils.now, lambda now=rq.utils.now: now() + timedelta(seconds=wrong_s())),
        (rq.utils.current_timestamp, lambda stamp=rq.utils.current_timestamp: stamp() + int(wrong_s())),
        (api_schemas.jobs.utc_now, lambda now=api_schemas.jobs.utc_now: now() + timedelta(seconds=wrong_s())),
    ):
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in ("rq", "core", "worker", "api_schemas"):
                for key, value in list(vars(module).items()):
                    if value is function:
                        setattr(module, key, wrong)


if __name__ == "__main__":
    sys.exit(main())
