"""The dashboard and the alerts: they ask for metrics that exist, of a data source that exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_gpus import FakeCard, nvml_of, torch_of
from prometheus_client import CollectorRegistry

from service.metrics import ApiMetrics
from worker.gpu_metrics import GpuMetrics
from worker.metrics import WorkerMetrics
from worker.steward_metrics import StewardMetrics

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/outfill.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}
OPERATIONS = DEPLOY.parent / "docs/operations.md"
NAME = re.compile(r"\boutfill_\w+")


def series(registry: CollectorRegistry) -> Iterator[str]:
    """The names under which Prometheus keeps what a registry exports, whether or not a labelled series has been seen yet."""
    for family in registry.collect():
        for suffix in SUFFIXES.get(family.type, ()):
            yield family.name + suffix


def existing() -> set[str]:
    cards, gpus = [FakeCard("11111111-2222-3333-4444-555555555555", reserved=1)], CollectorRegistry()
    gpus.register(GpuMetrics(torch_of(cards), nvml_of(cards)))  # a machine without CUDA exports nothing of GPUs
    registries = (gpus, *(metrics.registry for metrics in (WorkerMetrics(), StewardMetrics(), ApiMetrics())))
    return {name for registry in registries for name in series(registry)}


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


def test_every_metric_is_documented() -> None:
    """The table of docs/operations.md names every metric that the code exports, and no other."""
    section = OPERATIONS.read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    named = {name for line in section.splitlines() if line.startswith("| `") for name in NAME.findall(line.split("|")[1])}
    exported = {re.sub("_(bucket|sum|count)$", "", name) for name in existing() if NAME.match(name)}
    assert named == exported


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
        "outfill_engine_seconds_total",
        "outfill_model_calls_total",
        "outfill_pixels_total",
        "outfill_job_seconds_bucket",
        "outfill_gpu_memory_bytes",
        "outfill_gpu_utilization_ratio",
        "outfill_gpu_info",
        "outfill_row_budget",
        "outfill_out_of_memory_total",
        "outfill_attention_backend_info",
        "outfill_webhook_attempts_total",
        "outfill_deletions_due",
        "outfill_deletions_late_seconds",
    }
    assert promised <= shown


def test_the_dashboard_names_the_provisioned_data_source() -> None:
    """Every panel asks the data source that Grafana is given."""
    [source] = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    used = {target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())}
    assert used == {source["uid"]}


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    """The places (x, y) of the grid that a panel takes."""
    grid = panel["gridPos"]
    return {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}


def test_no_panel_lies_on_another() -> None:
    """Every panel has a place of its own in Grafana's 24 columns, with no row left empty between panels."""
    places = [place for panel in DASHBOARD["panels"] for place in cells(panel)]
    assert len(places) == len(set(places))
    assert {x for x, _ in places} == set(range(24))
    assert {y for _, y in places} == set(range(max(y for _, y in places) + 1))


def test_panels_and_their_queries_are_told_apart() -> None:
    """No two panels share an id or a title, and no two queries of one panel a name."""
    for key in ("id", "title"):
        values = [panel[key] for panel in DASHBOARD["panels"]]
        assert len(values) == len(set(values))
    for panel in DASHBOARD["panels"]:
        names = [target["refId"] for target in panel.get("targets", ())]
        assert len(names) == len(set(names))


def test_each_alert_has_a_case_in_which_it_rings_and_one_in_which_it_is_silent() -> None:
    """An alert that rings for the wrong reason is as bad as one that does not ring."""
    cases = yaml.safe_load(Path(__file__).with_name("alerts.promtool.yml").read_text())["tests"]
    told = [(case["alertname"], bool(case["exp_alerts"])) for test in cases for case in test["alert_rule_test"]]
    alerts = {rule["alert"] for group in ALERTS["groups"] for rule in group["rules"]}
    silent_and_ringing = {(alert, rings) for alert in alerts for rings in (True, False)}
    assert silent_and_ringing - set(told) == set()
    assert {alert for alert, _ in told} == alerts


def test_alerts_go_to_a_receiver() -> None:
    """Prometheus sends to the Alertmanager of the compose file, each of whose routes ends at a receiver that posts somewhere."""
    compose = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text())
    [manager] = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["alerting"]["alertmanagers"]
    [(host, port)] = [target.split(":") for config in manager["static_configs"] for target in config["targets"]]
    assert any(mapping.endswith(f":{port}:{port}") for mapping in compose["services"][host]["ports"])
    assert set(compose["services"]["prometheus"]["networks"]) & set(compose["services"][host]["networks"])
    config = yaml.safe_load((DEPLOY / "alertmanager/alertmanager.yml").read_text())
    receivers = {receiver["name"]: receiver["webhook_configs"] for receiver in config["receivers"]}
    assert {route["receiver"] for route in (config["route"], *config["route"]["routes"])} <= set(receivers)
    secrets = {f"/run/secrets/{name}" for name in compose["services"][host]["secrets"]}
    assert {each["url_file"] for webhooks in receivers.values() for each in webhooks} <= secrets


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_alerts_ring_when_they_should() -> None:
    """Prometheus itself evaluates the rules on series made for it: each rings, or is silent, as its case says."""
    cases = Path(__file__).with_name("alerts.promtool.yml")
    run = subprocess.run(["promtool", "test", "rules", cases.name], cwd=cases.parent, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
