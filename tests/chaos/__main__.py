"""``make chaos``: many jobs, many kills, and every outage. Prints what was found, and writes build/bench/chaos.json.

python -m tests.chaos --jobs 500 --kills 30 --seed 1
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scripts.figures import exit_status, figure, write_figures

from .invariants import BYTES_PER_ENDED_JOB
from .measure import jobs_elsewhere_s, steward_replaced_s
from .points import POINTS
from .proxy import Mode
from .storm import Fault, Plan, Result, running, shuffled

WORKER_S, STEWARD_S = 45.0, 15.0
WEBHOOK_AGAIN_S = 42.0
"""A webhook that a dead steward was sending is leased for 30 s, and another steward takes over meanwhile."""
FAULTS: tuple[tuple[str, Fault], ...] = (
    ("Valkey is killed", lambda stack: stack.kill_valkey()),
    ("replies of Valkey are dropped for 30 s", lambda stack: stack.drop_replies(0.005, 30.0)),
    ("S3 is away for 60 s", lambda stack: stack.s3_fails(Mode.DOWN, 60.0)),
    ("Valkey is frozen for 20 s", lambda stack: stack.freeze_valkey(20.0)),
    ("S3 answers 500 for 20 s", lambda stack: stack.s3_fails(Mode.ERRORS, 20.0)),
    ("the disk of Valkey is full for 5 s", lambda stack: stack.fill_disk(5.0)),
    ("the clocks of all workers jump an hour ahead for 20 s", lambda stack: stack.step_clocks(3600.0, 20.0)),
    ("the API is killed", lambda stack: stack.kill("api")),
)
FAILOVERS: tuple[tuple[str, Fault], ...] = (
    ("Valkey is killed and its replica promoted", lambda stack: stack.promote(killed=True)),
    ("Valkey is demoted and its replica promoted", lambda stack: stack.promote(killed=False)),
) * 2
CLOCKS = {"worker-2": -300.0, "worker-3": 20.0, "steward-2": 5.0}


def main() -> int:
    """Run, print, write; 1 if anything is not as it must be."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--kills", type=int, default=30, help="by SIGKILL at named points; a SIGTERM at each point comes on top")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--replica", action="store_true", help="with a replica of Valkey that is promoted four times, and OUTFILL_REDIS__REPLICAS=1"
    )
    parser.add_argument("--keep", type=Path, help="run in this directory, and leave the logs there")
    parser.add_argument("--skip-measures", action="store_true", help="do not measure how fast others take over")
    arguments = parser.parse_args()
    plan = _plan(arguments.jobs, arguments.kills, arguments.seed, replica=arguments.replica)
    with tempfile.TemporaryDirectory() as folder, running(plan, arguments.keep or Path(folder)) as run:
        figures = {}
        if not arguments.skip_measures:
            workers = [jobs_elsewhere_s(run, point) for point in ("claim", "adopt", "put")]
            stewards = [steward_replaced_s(run) for _ in range(2)]
            figures = {
                "jobs_of_a_killed_worker_run_elsewhere_s": figure(max(workers), WORKER_S),
                "a_killed_steward_is_replaced_s": figure(max(new for new, _ in stewards), STEWARD_S),
                "a_webhook_in_flight_comes_again_s": figure(max(again for _, again in stewards), WEBHOOK_AGAIN_S),
            }
        result = run.storm()
        jobs = len(run.caller.accepted)
    return _report(plan, figures, result, jobs)


def _plan(jobs: int, kills: int, seed: int, *, replica: bool) -> Plan:
    chance, known = random.Random(seed), FAULTS + FAILOVERS * replica
    strikes = [(chance.choice(POINTS), "kill") for _ in range(kills)] + [(point, "term") for point in POINTS]
    places = sorted(chance.sample(range(len(strikes)), min(len(known), len(strikes))))
    return Plan(
        seed=seed,
        workers=3,
        jobs=jobs,
        strikes=shuffled(strikes, seed),
        faults=dict(zip(places, chance.sample(known, len(places)), strict=True)),
        clocks=CLOCKS,
        replica=replica,
        patience_s=1200.0,
    )


def _report(plan: Plan, figures: dict[str, dict[str, object]], result: Result, jobs: int) -> int:
    odd = [line for line in result.endings if "ended with -9" not in line and "ended with 0" not in line]
    kills = sum(hit.action == "kill" for hit in result.hits)
    figures |= {
        "breaches": figure(len(result.breaches), 0),
        "strikes_that_nobody_came_by": figure(len(result.missed), 0),
        "processes_that_ended_unasked": figure(len(odd), 0),
        "redis_bytes_of_an_ended_job": figure(result.bytes_per_ended_job, BYTES_PER_ENDED_JOB),
    }
    table = Table("figure", "value", "limit", "holds")
    for name, entry in figures.items():
        table.add_row(name, f"{entry['value']:g}", f"{entry['limit']:g}", "yes" if entry["holds"] else "NO")
    console = Console(width=120)
    console.print(
        f"seed {plan.seed}: {jobs} jobs accepted, {kills} kills and {len(result.hits) - kills} stops at named points, "
        f"{len(plan.faults)} outages, {result.dropped_replies} replies dropped, at most {result.most_attempts} attempts, {result.seconds:.0f} s"
    )
    for line in [*result.breaches, *result.missed, *odd]:
        console.print(f"  {line}", markup=False)
    console.print(table)
    write_figures("chaos-replica" if plan.replica else "chaos", figures)
    return exit_status(figures)


if __name__ == "__main__":
    sys.exit(main())
