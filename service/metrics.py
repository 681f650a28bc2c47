"""What the API counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector


class ApiMetrics:
    """Metrics of one API process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "outfill_http_requests", "Requests by route and status.", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "outfill_http_request_seconds", "Time to answer, without waiting for jobs.", ["method", "route"], registry=self.registry
        )
        self.accepted = Counter("outfill_jobs_accepted", "Jobs accepted.", ["operation", "model", "priority"], registry=self.registry)
        self.streams = Gauge("outfill_event_streams", "Event streams that are open.", registry=self.registry)
        self.refused = Counter("outfill_jobs_refused", "Job requests refused.", ["code"], registry=self.registry)
