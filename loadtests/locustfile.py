"""Load on a running stack of this machine: ``make load``, with URL and KEY as ``make up`` prints them.

    locust -f loadtests/locustfile.py --headless -u 8 -r 4 -t 30s --host "$URL"

Rows of type JOB are times to completion, as the caller sees them: polling included, download not.
"""

from __future__ import annotations

import os
from typing import Any

from locust import events
from locust.env import Environment

from loadtests.users import Eraser, Poller, Shop, require_loopback

__all__ = ["Eraser", "Poller", "Shop"]


@events.init.add_listener  # type: ignore[untyped-decorator]
def _before_anything(environment: Environment, **_: Any) -> None:
    """Refuse to start without a key, or against another machine."""
    require_loopback(environment.host or os.environ.get("URL", ""))
    if not os.environ.get("KEY"):
        raise SystemExit("set KEY to an API key of the stack")


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _before_a_run(environment: Environment, **_: Any) -> None:
    """The host may have been changed in Locust's own page since."""
    require_loopback(environment.host or os.environ.get("URL", ""))
