"""Painting by engines without a device (``Engine.reentrant``): a stage of a job like any other, in the thread that calls."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from api_schemas.errors import EngineFailed, OutfillError
from worker.engines.base import Engine, Slot, begin
from worker.metrics import WorkerMetrics
from worker.work import Work

_log = structlog.get_logger(__name__)


def paint(engine: Engine, work: Work, metrics: WorkerMetrics, wanted: Callable[[], None]) -> None:
    """Paint the pictures of the round of ``work``, one after the other; ``wanted`` raises where the job is not to go on.

    Raises what it raises, and ``EngineFailed`` where the engine cannot paint one.
    """
    try:
        work.slots = begin(engine, work.requests)
        for slot in work.slots:
            wanted()
            began = time.monotonic()
            _step(engine, slot)
            metrics.batch.labels(engine.card.id).observe(1)
            metrics.step.labels(engine.card.id).observe(time.monotonic() - began)
        work.painted = dict(enumerate(engine.finish(work.slots)))
    except OutfillError:
        raise
    except Exception as error:
        wanted()  # says why where a checkpoint stopped it
        _log.exception("painting_failed", job=work.spec.id, model=engine.card.id)
        raise EngineFailed("the model failed on this picture") from error
    finally:
        work.release()


def _step(engine: Engine, slot: Slot) -> None:
    while not slot.done:
        engine.step([slot])
    if slot.error is not None:
        raise slot.error
