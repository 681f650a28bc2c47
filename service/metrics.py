"""Metrics of one API process."""

from __future__ import annotations

import multiprocessing

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from core.events import UNREADABLE

_log = structlog.get_logger(__name__)


class ApiMetrics:
    """Counters, histograms and gauges, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(UNREADABLE)
        self.requests = Counter(
            "outfill_http_requests", "Requests by route and status.", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "outfill_http_request_seconds", "Time to answer, without waiting for jobs.", ["method", "route"], registry=self.registry
        )
        self.accepted = Counter("outfill_jobs_accepted", "Jobs accepted.", ["operation", "model", "priority"], registry=self.registry)
        self.streams = Gauge("outfill_event_streams", "Event streams that are open.", registry=self.registry)
        self.refused = Counter("outfill_jobs_refused", "Job requests refused.", ["code"], registry=self.registry)


SEVERAL = "several processes share this address, and each has metrics of its own: run one at each address (no --workers, no --reload), and scrape each"


def may_have_siblings() -> bool:
    """Whether a supervisor has started this process, as uvicorn's does for ``--workers`` and ``--reload``."""
    return multiprocessing.parent_process() is not None


def warn_of_siblings() -> None:
    """Log a warning where no metrics are told, as several processes may share the address."""
    if may_have_siblings():
        _log.warning("no_metrics", reason=SEVERAL)
