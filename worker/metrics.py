"""What a paint worker measures. Never labelled by job, tenant or URL."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

from core.events import UNREADABLE
from worker.engine_metrics import EngineMetrics
from worker.engines.base import WarmUp
from worker.gpu_metrics import GpuMetrics

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_STEP_SECONDS = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.012, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05, 0.06, 0.08),
    *(0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
"""Fine where GPUs are, a few milliseconds to 0.1 s, so that what makes a step faster by a quarter shows."""
_JOB_SECONDS = (0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 120, 300, 600, 1200, 1800, 3600)


class WorkerMetrics:
    """Metrics of one paint worker, in a registry of their own."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` is that of the engine thread's time."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(UNREADABLE)
        self.gpus, self.engines = GpuMetrics(), EngineMetrics(clock)
        registry.register(self.gpus)
        registry.register(self.engines)
        self.queue_wait = Histogram(
            "outfill_queue_wait_seconds",
            "From acceptance to begin, first attempts.",
            ["model", "priority"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.stage = Histogram(
            "outfill_stage_seconds", "Time of one job in one stage.", ["stage", "operation"], registry=registry, buckets=_SECONDS
        )
        self.step = Histogram("outfill_step_seconds", "Time of one model call.", ["model"], registry=registry, buckets=_STEP_SECONDS)
        self.job = Histogram(
            "outfill_job_seconds",
            "From acceptance to the committed end, of jobs that this worker ended.",
            ["operation", "priority", "status"],
            registry=registry,
            buckets=_JOB_SECONDS,
        )
        self.batch = Histogram(
            "outfill_batch_size", "Slots in one model call.", ["model"], registry=registry, buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32)
        )
        self.row_budget = Gauge(
            "outfill_row_budget", "Cost that one model call may have now; halved where memory ran out.", ["model"], registry=registry
        )
        self.rows = Counter("outfill_model_rows", "Rows of the model's native size in model calls.", ["model"], registry=registry)
        self.row_seconds = Gauge(
            "outfill_warm_up_row_seconds", "Time of a row in the model call that the warm-up chose.", ["model"], registry=registry
        )
        self.out_of_memory = Counter("outfill_out_of_memory", "Model calls for which the device had no room.", ["model"], registry=registry)
        self.finished = Counter("outfill_jobs_finished", "Jobs ended by this worker.", ["operation", "model", "status"], registry=registry)
        self.failures = Counter("outfill_job_failures", "Failed jobs by error code.", ["code"], registry=registry)
        self.images = Counter("outfill_images", "Images committed.", ["operation", "model"], registry=registry)
        self.pixels = Counter("outfill_pixels", "Pixels of the images committed.", ["operation", "model"], registry=registry)
        self.verdicts = Counter(
            "outfill_verdicts", "Images committed, by the verdict of their report.", ["operation", "model", "verdict"], registry=registry
        )
        self.retries = Counter(
            "outfill_image_retries", "Images painted again because a check was not met.", ["operation", "model"], registry=registry
        )
        self.unprompted = Counter(
            "outfill_unprompted",
            "Images done without the prompt, as all attempts of the model failed.",
            ["operation", "model"],
            registry=registry,
        )
        self.confidence = Histogram(
            "outfill_subject_confidence",
            "Confidence that the product is found whole and alone, 0 to 1.",
            ["operation", "model"],
            registry=registry,
            buckets=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
        )
        self.seam = Histogram(
            "outfill_seam",
            "Gradient across the border of an edit over that beside it; 1 is invisible.",
            ["operation", "model"],
            registry=registry,
            buckets=(0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 3, 5),
        )
        self.colour_shift = Histogram(
            "outfill_colour_shift_delta_e",
            "ΔE2000 by which a fill is off its surroundings along the border.",
            ["operation", "model"],
            registry=registry,
            buckets=(0.25, 0.5, 1, 2, 3, 5, 8, 15, 30),
        )
        self.rim = Histogram(
            "outfill_rim_levels",
            "Levels by which a line along the border of an edit is off both of its sides.",
            ["operation", "model"],
            registry=registry,
            buckets=(1, 2, 4, 6, 10, 20, 40),
        )
        self.border_step = Histogram(
            "outfill_step_levels",
            "Levels by which a fill that goes on with its photo is off along all of the border.",
            ["operation", "model"],
            registry=registry,
            buckets=(1, 2.5, 5, 10, 16, 30, 60),
        )
        self.model_error = Histogram(
            "outfill_model_error_delta_e",
            "ΔE2000 by which a model is off on kept pixels, once its shift of colours is taken back.",
            ["operation", "model"],
            registry=registry,
            buckets=(0.25, 0.5, 1, 2, 3, 5, 8, 15),
        )
        self.growth = Histogram(
            "outfill_subject_growth_ratio",
            "Area that the product gained, as a share of its own.",
            ["operation", "model"],
            registry=registry,
            buckets=(0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1),
        )
        self.fence_rejected = Counter("outfill_fence_rejected", "Results dropped because the lease was lost.", registry=registry)
        self.handed_back = Counter("outfill_jobs_handed_back", "Jobs given back on shutdown.", registry=registry)
        self.in_flight = Gauge("outfill_jobs_in_flight", "Jobs that this worker holds.", registry=registry)
        self.attention = Gauge(
            "outfill_attention_backend_info",
            "1 for each attention kernel that ran when the model was warmed, as the profiler saw it.",
            ["model", "kernel", "requested"],
            registry=registry,
        )
        self.attention_by_shape = Gauge(
            "outfill_attention_shape_info",
            "1 for the attention kernel that the warm-up measured as the fastest, by queries × keys × width.",
            ["model", "shape", "kernel"],
            registry=registry,
        )
        self.compiled = Gauge(
            "outfill_compile_info",
            "1 for the state of a model: compiled, eager, or failed to compile.",
            ["model", "state"],
            registry=registry,
        )
        self.load = Gauge("outfill_models_load_seconds", "Time that reading the weights of all models took.", registry=registry)
        self.warm_up = Gauge("outfill_model_warm_up_seconds", "Time that measuring and compiling took.", ["model"], registry=registry)
        self.ready = Gauge("outfill_worker_ready", "1 once all models are warm and jobs are claimed.", registry=registry)

    def tell_warm_up(self, model: str, found: WarmUp, *, requested: str) -> None:
        """Export the findings of a model's warm-up; ``requested`` is the attention that the settings name."""
        for kernel in found.kernels:
            self.attention.labels(model, kernel, requested).set(1)
        for shape, kernel in found.kernels_by_shape.items():
            self.attention_by_shape.labels(model, shape, kernel).set(1)
        if found.compile_failure is not None:
            self.compiled.labels(model, "failed").set(1)
        self.compiled.labels(model, "compiled" if found.compiled else "eager").set(1)
        if found.row_s is not None:
            self.row_seconds.labels(model).set(found.row_s)
