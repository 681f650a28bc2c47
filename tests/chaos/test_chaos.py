"""The short form of ``make chaos``: every named point once by SIGKILL and once by SIGTERM, and each outage for a moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from .points import ACTIONS, POINTS
from .proxy import Mode
from .storm import Plan, running, shuffled

SHORT = Plan(
    seed=1,
    workers=3,
    jobs=60,
    strikes=shuffled([(point, action) for point in POINTS for action in ACTIONS], 1),
    faults={
        2: ("Valkey is killed", lambda stack: stack.kill_valkey()),
        5: ("S3 is away", lambda stack: stack.s3_fails(Mode.DOWN, 2.0)),
        7: ("S3 answers 500", lambda stack: stack.s3_fails(Mode.ERRORS, 2.0)),
        9: ("replies of Valkey are dropped", lambda stack: stack.drop_replies(0.02, 3.0)),
        11: ("Valkey is frozen", lambda stack: stack.freeze_valkey(2.0)),
        10: ("the clocks of all workers jump an hour back", lambda stack: stack.step_clocks(-3600.0, 3.0)),
        12: ("the disk of Valkey is full", lambda stack: stack.fill_disk(1.0)),
    },
    clocks={"worker-2": -300.0},
    patience_s=600.0,
    environment={
        "OUTFILL_WORKER__LEASE_S": "4",
        "OUTFILL_STEWARD__PERIOD_S": "0.5",
        "OUTFILL_STEWARD__LOCK_S": "3",
        "OUTFILL_OUTBOUND__TIMEOUT_S": "2",
    },
)


@pytest.mark.timeout(1200)
def test_every_job_ends_once_whatever_dies(tmp_path: Path) -> None:
    """Killed and stopped at every named point, with Valkey and S3 failing: each accepted job has one end, one result and its webhook, and
    nothing is left behind.
    """
    with running(SHORT, tmp_path) as run:
        result = run.storm()
    assert result.missed == []
    assert result.breaches == []
    unasked = [line for line in result.endings if "ended with -9" not in line and "ended with 0" not in line]
    assert unasked == []
    assert result.dropped_replies > 0
