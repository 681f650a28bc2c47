"""Item 13: the worker's own parts without Redis: jobs of several shapes and samplers arrive, their photos are decoded beside, and are painted."""

from __future__ import annotations

import random
import statistics
import threading
import time
from functools import partial

import cv2
import numpy as np

from scripts.gpu_facts.findings import Findings
from scripts.gpu_facts.stage import INPAINT, Stage, Stepping
from scripts.gpu_facts.workload import Jobs, Load, TimedEngine


def run(stage: Stage, findings: Findings) -> None:
    """One slot stepped alone first; then all jobs, arriving at random times; the engine is busy for a share of the time in which jobs were being painted."""
    kind = INPAINT["sd15"]
    load = Load(jobs=8, seconds=1.0, photo=(400, 300), steps=3) if stage.rehearsal else Load()
    engine = TimedEngine(stage.shipped(kind))
    step = Stepping(engine, [stage.request(kind, steps=load.steps)])
    for _ in range(min(load.steps, 20)):
        step()
    alone_ms = statistics.median(seconds for _, seconds in engine.steps[2:] or engine.steps) * 1e3
    findings.add("alone_step_ms", alone_ms)
    engine.clear()
    _serve(findings, engine, load, alone_ms)


def _serve(findings: Findings, engine: TimedEngine, load: Load, alone_ms: float) -> None:
    jobs = Jobs(engine, INPAINT["sd15"], load)
    painter = threading.Thread(target=jobs.painter.run, name="painter")
    times = random.Random(0)  # noqa: S311 - arrivals are no secret
    arrivals = sorted(times.uniform(0, load.seconds) for _ in range(load.jobs))
    opencv_threads = cv2.getNumThreads()
    painter.start()
    try:
        jobs.wait(jobs.painter.is_warm, findings.deadline.check)
        engine.clear()
        began = time.perf_counter()
        for number, arrival in enumerate(arrivals):
            jobs.wait(partial(_is_past, began + arrival), findings.deadline.check)
            jobs.arrive(number)
        jobs.wait(lambda: jobs.done == load.jobs, findings.deadline.check)
    finally:
        jobs.painter.stop()
        painter.join()
        try:
            _report(findings, engine, jobs, alone_ms)
        finally:
            jobs.close()
            cv2.setNumThreads(opencv_threads)


def _is_past(moment: float) -> bool:
    return time.perf_counter() >= moment


def _report(findings: Findings, engine: TimedEngine, jobs: Jobs, alone_ms: float) -> None:
    steps = sorted(seconds for _, seconds in engine.steps)
    busy_s = sum(steps) + sum(engine.others_s)
    if not steps:
        raise RuntimeError(f"no step was run: {'; '.join(jobs.failures[:3])}")
    single = [seconds for slots, seconds in engine.steps if slots == 1] or [float("nan")]
    findings.say("failures", "; ".join(jobs.failures[:3]) or "none")
    findings.add_all(
        {
            "jobs_done_count": jobs.done - len(jobs.failures),
            "jobs_failed_count": len(jobs.failures),
            "engine_busy_share": busy_s / jobs.painting.seconds(),
            "stepping_share": sum(steps) / jobs.painting.seconds(),
            "engine_busy_while_held_share": busy_s / jobs.held.seconds(),
            "step_p50_ms": statistics.median(steps) * 1e3,
            "step_p95_ms": float(np.quantile(steps, 0.95)) * 1e3,
            "single_slot_step_p50_ms": statistics.median(single) * 1e3,
            "single_slot_step_over_alone_ratio": statistics.median(single) * 1e3 / alone_ms,
            "slots_in_a_step_mean_count": statistics.mean(slots for slots, _ in engine.steps),
            "prepare_and_finish_p95_ms": float(np.quantile(engine.others_s, 0.95)) * 1e3,
        }
    )
