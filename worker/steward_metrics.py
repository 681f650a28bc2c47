"""What the steward measures: the queue from outside, and its own work."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, PlatformCollector, ProcessCollector

from core.events import UNREADABLE


class StewardMetrics:
    """Metrics of one steward. The gauges are set by the active one only, once a round."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(UNREADABLE)
        self.active = Gauge("outfill_steward_active", "1 in the steward that holds the lock.", registry=registry)
        self.last_round = Gauge(
            "outfill_steward_last_round_timestamp_seconds", "When the last round of this kind ended.", ["round"], registry=registry
        )
        self.jobs = Gauge("outfill_jobs", "Jobs by state.", ["state"], registry=registry)
        self.queue_depth = Gauge("outfill_queue_depth", "Jobs waiting.", ["queue"], registry=registry)
        self.queue_oldest = Gauge(
            "outfill_queue_oldest_age_seconds", "Age of the oldest job that a worker may take.", ["queue"], registry=registry
        )
        self.workers = Gauge("outfill_workers", "Live paint workers.", registry=registry)
        self.requeued = Counter("outfill_jobs_requeued", "Jobs taken from workers that fell silent.", registry=registry)
        self.strays = Counter("outfill_jobs_strays", "Claimed jobs that never got a lease.", registry=registry)
        self.reconciled = Counter("outfill_jobs_reconciled", "Jobs that waited, stood nowhere and were put into line.", registry=registry)
        self.aside = Gauge("outfill_jobs_set_aside", "Jobs that wait for a worker that can read their records.", registry=registry)
        self.outbox = Gauge("outfill_webhooks_owed", "Webhooks in the outbox.", registry=registry)
        self.lanes = Gauge("outfill_webhook_lanes", "Receivers to whom webhooks are owed.", registry=registry)
        self.late = Gauge("outfill_webhooks_late_seconds", "How long the first webhook that nobody sends has been due.", registry=registry)
        self.dead_letters = Gauge("outfill_webhooks_dead", "Webhooks given up in the last week.", registry=registry)
        self.given_up = Counter("outfill_webhooks_given_up", "Webhooks given up.", registry=registry)
        self.webhook_attempts = Counter("outfill_webhook_attempts", "Deliveries tried.", ["outcome"], registry=registry)
        self.deletions_due = Gauge("outfill_deletions_due", "What is to be deleted and is not yet.", ["kind"], registry=registry)
        self.deletions_late = Gauge(
            "outfill_deletions_late_seconds", "How long the first of what is to be deleted has been due.", ["kind"], registry=registry
        )
        self.rebuild_wanted = Gauge(
            "outfill_rebuild_wanted", "1 while the bucket has a copy of keys and endpoints that Redis has lost.", registry=registry
        )
