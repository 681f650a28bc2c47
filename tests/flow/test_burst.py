"""A burst before real, idle workers."""

from __future__ import annotations

from scripts import bench_burst


def test_two_idle_workers_share_a_burst() -> None:
    """Eight jobs that are queued at once go to two idle worker processes as four and four, or five and three."""
    with bench_burst.idle_workers() as bench:
        share = bench_burst.burst(bench)
    assert sum(share) == 8
    assert bench_burst.spread(share) <= 2
