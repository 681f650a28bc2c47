"""The dashboard and the alerts: they ask for metrics that exist, of a data source that exists."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.metrics import ApiMetrics
from worker.metrics import GpuMemory, WorkerMetrics
from worker.steward_metrics import StewardMetrics

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/outfill.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}
NAME = re.compile(r"\boutfill_\w+")


def series(registry: CollectorRegistry) -> Iterator[str]:
    """The names under which Prometheus keeps what a registry exports, whether or not a labelled series has been seen yet."""
    for family in registry.collect():
        for suffix in SUFFIXES.get(family.type, ()):
            yield family.name + suffix


def existing() -> set[str]:
    # A machine without CUDA collects no GPU series, so that their name is read where it is written.
    gpu = NAME.findall(inspect.getsource(GpuMemory.collect))
    assert len(gpu) == 1
    return {*gpu, *(name for metrics in (WorkerMetrics(), StewardMetrics(), ApiMetrics()) for name in series(metrics.registry))}


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield f"dashboard: {panel['title']} {target['refId']}", target["expr"]
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            yield f"alert: {rule['alert']}", rule["expr"]


@pytest.mark.parametrize("expression", [pytest.param(text, id=where) for where, text in expressions()])
def test_every_metric_exists(expression: str) -> None:
    """A panel or an alert asks for no metric that the code does not export."""
    assert set(NAME.findall(expression)) - existing() == set()


def test_what_operators_look_for_is_shown() -> None:
    """What operators are promised to see is on the dashboard."""
    shown = {name for where, text in expressions() if where.startswith("dashboard") for name in NAME.findall(text)}
    promised = {
        "outfill_images_total",
        "outfill_jobs",
        "outfill_stage_seconds_bucket",
        "outfill_queue_depth",
        "outfill_queue_oldest_age_seconds",
        "outfill_queue_wait_seconds_bucket",
        "outfill_step_seconds_bucket",
        "outfill_batch_size_bucket",
        "outfill_gpu_memory_bytes",
        "outfill_row_budget",
        "outfill_out_of_memory_total",
        "outfill_attention_backend_info",
        "outfill_webhook_attempts_total",
    }
    assert promised <= shown


def test_the_dashboard_names_the_provisioned_data_source() -> None:
    """Every panel asks the data source that Grafana is given."""
    [source] = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    used = {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())}
    assert used == {source["uid"]}
