"""The stock pipeline in RQ's SimpleWorker. ``MODEL=… DTYPE=… python simple_worker.py REDIS_URL`` works until it is killed."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker
from stock import Job, load, paint


@cache
def _pipeline() -> Any:
    return load(os.environ["MODEL"], os.environ["DTYPE"])


def paint_one(job: dict[str, Any]) -> bytes:
    """The task."""
    return paint(_pipeline(), [Job(**job)])[0]


if __name__ == "__main__":
    _pipeline()
    connection = Redis.from_url(sys.argv[1])
    sys.modules["simple_worker"] = sys.modules["__main__"]
    SimpleWorker([Queue("paint", connection=connection)], connection=connection).work(logging_level="WARNING")
