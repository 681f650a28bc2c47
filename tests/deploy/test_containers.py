"""The checker of the container files: content with ours, and not with planted faults."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from core.settings import Settings
from scripts import check_containers as checker
from scripts import worker_services

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The container files, to break."""
    for name in (checker.DOCKERFILE, checker.COMPOSE, checker.EXAMPLE):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / checker.PROMETHEUS, tmp_path / checker.PROMETHEUS)
    return tmp_path


def plant(root: Path, file: str, old: str, new: str) -> None:
    text = (root / file).read_text()
    assert old in text, f"the test is out of date: {file} no longer has {old!r}"
    (root / file).write_text(text.replace(old, new, 1))


def test_our_own_files_have_no_fault() -> None:
    """The repository's container files pass."""
    assert list(checker.all_faults(ROOT)) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        (checker.COMPOSE, "stop_grace_period:", "stop_grace_perid:", "stop_grace_perid"),
        (checker.COMPOSE, "grafana/grafana:12.1.0", "grafana/grafana:latest", "grafana/grafana:latest"),
        (checker.COMPOSE, "grafana/grafana:12.1.0", "grafana/grafana", "needs a tag"),
        (checker.COMPOSE, "[python, -m, worker, paint]", "[python, -m, worker, pant]", "worker-0 runs"),
        (checker.COMPOSE, 'device_ids: ["1"]', 'device_ids: ["0"]', "worker-1: GPU 0 is that of worker-0"),
        (checker.COMPOSE, 'device_ids: ["1"]', 'device_ids: ["1", "2"]', "worker-1: it runs on cuda and reserves 2 GPUs"),
        (checker.COMPOSE, 'device_ids: ["1"]', "count: 1", "worker-1: a count of GPUs"),
        (checker.COMPOSE, "profiles: [gpu1], deploy:", "profiles: [gpu1], gpus: all, deploy:", "worker-1: a count of GPUs"),
        (
            checker.COMPOSE,
            "worker-cpu: { <<: *worker, profiles: [cpu]",
            "worker-cpu: { <<: *worker",
            "worker-cpu: a worker needs a profile",
        ),
        (checker.COMPOSE, "OUTFILL_WORKER__DEVICE: cpu", "OUTFILL_WORKER__DEVICE: cuda", "worker-cpu: it runs on cuda and reserves 0 GPUs"),
        (checker.COMPOSE, "OUTFILL_WORKER__DEVICE: cpu", "OUTFILL_WORKER__DEVICE: auto", "say cuda or cpu"),
        (checker.COMPOSE, "OUTFILL_WORKER__DEVICE: cuda", "OUTFILL_WORKER__DEVICE: cpu", "worker-0: it runs on cpu and reserves 1 GPUs"),
        (checker.COMPOSE, "aliases: [worker]", "aliases: [workers]", "worker-0: prometheus looks for 'worker'"),
        (checker.COMPOSE, ', "compiled:/var/cache/outfill"', "", "TRITON_CACHE_DIR=/var/cache/outfill/triton is in the image"),
        (checker.COMPOSE, "compiled:/var/cache/outfill", "compiled:/var/cache/outfill:ro", "is on a read-only volume"),
        (
            checker.COMPOSE,
            "tmpfs: [/tmp]",
            "tmpfs: [/tmp, /var/cache/outfill/inductor]",
            "TORCHINDUCTOR_CACHE_DIR=/var/cache/outfill/inductor is on a tmpfs",
        ),
        (
            checker.COMPOSE,
            "OUTFILL_WORKER__SERVE:",
            "TRITON_CACHE_DIR: /tmp/triton\n    OUTFILL_WORKER__SERVE:",
            "TRITON_CACHE_DIR=/tmp/triton is on a tmpfs",
        ),
        (
            checker.COMPOSE,
            "OUTFILL_WORKER__SERVE:",
            "NVIDIA_VISIBLE_DEVICES: all\n    OUTFILL_WORKER__SERVE:",
            "NVIDIA_VISIBLE_DEVICES goes past",
        ),
        (
            checker.DOCKERFILE,
            "ENV NVIDIA_DRIVER",
            "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER",
            "stage worker sets NVIDIA_VISIBLE_DEVICES",
        ),
        (checker.DOCKERFILE, "TORCHINDUCTOR_CACHE_DIR=", "INDUCTOR_CACHE_DIR=", "TORCHINDUCTOR_CACHE_DIR is not set"),
        (checker.COMPOSE, "      - -filer.disableHttp\n", "", "s3 runs without -filer.disableHttp"),
        (checker.COMPOSE, "-ip.bind=127.0.0.1\n", "-ip.bind=0.0.0.0\n", "s3 listens where only itself may reach it: -ip.bind=0.0.0.0"),
        (
            checker.COMPOSE,
            'volumes: ["s3:/data", "s3-keys',
            'ports: ["8888:8888"]\n    volumes: ["s3:/data", "s3-keys',
            "on the network store alone",
        ),
        (checker.COMPOSE, 'volumes: ["valkey:/data"]', 'volumes: ["valkey:/data", "s3-keys:/keys"]', "valkey mounts s3-keys"),
        (checker.EXAMPLE, "COMPOSE_PROFILES=cpu", "COMPOSE_PROFILES=cpu,gpu", "COMPOSE_PROFILES names 'gpu'"),
        (checker.COMPOSE, "OUTFILL_METRICS__HOST", "OUTFILL_METRICS__HSOT", "OUTFILL_METRICS__HSOT is not a setting"),
        (checker.COMPOSE, "${API_BIND:-127.0.0.1}", "${API_ADDRESS:-127.0.0.1}", "API_ADDRESS is missing"),
        (checker.EXAMPLE, "OUTFILL_WORKER__SERVE=", "OUTFILL_WORKER__SERVES=", "OUTFILL_WORKER__SERVES is not a setting"),
        (checker.DOCKERFILE, "RUN useradd", "RUN apt-get update && apt-get install -y curl\nRUN useradd", "DL3008"),
        (checker.DOCKERFILE, "FROM ${PYTHON_IMAGE} AS runtime", "FROM python:latest AS runtime", "DL3007"),
        (checker.DOCKERFILE, '["python", "-m", "worker", "paint"]', '["python", "-m", "worker"]', "stage worker runs"),
        (f"{checker.PROMETHEUS}/alerts.yml", "groups:", "groups: [", "alerts.yml"),
    ],
)
def test_a_planted_fault_is_found(copy: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, told: str) -> None:
    """Each fault ends the check with 1 and is told by name."""
    plant(copy, file, old, new)
    assert checker.main([str(copy)]) == 1
    assert told in capsys.readouterr().err


def test_every_setting_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that the checker accepts are those that the settings read."""
    names = set(checker.setting_names())
    assert {"OUTFILL_REDIS__URL", "OUTFILL_AUTH__KEYS", "OUTFILL_MODELS__DIRECTORIES", "OUTFILL_METRICS__PORT"} <= names
    monkeypatch.setenv("OUTFILL_METRICS__PORT", "9464")
    monkeypatch.setenv("OUTFILL_MODELS__DIRECTORIES", "{}")
    assert Settings().metrics.port == 9464


def test_both_notations_of_compose_are_read() -> None:
    """Mounts and variables are understood in the long form and in the short one."""
    short = {"volumes": ["${MODELS:-./models}:/models:ro", "cache:/cache"], "tmpfs": "/tmp:size=1g", "environment": ["A=b=c"]}
    long = {
        "volumes": [
            {"type": "bind", "source": "./models", "target": "/models", "read_only": True},
            {"type": "volume", "source": "cache", "target": "/cache"},
            {"type": "tmpfs", "target": "/tmp"},
        ],
        "environment": {"A": "b=c"},
    }
    expected = {"/models": "on a read-only volume", "/cache": "on a volume", "/tmp": "on a tmpfs"}
    assert [dict(worker_services.mounts(each)) for each in (short, long)] == [expected, expected]
    assert [worker_services.environment(each) for each in (short, long)] == [{"A": "b=c"}, {"A": "b=c"}]
