"""Faults of the workers in docker-compose.yml that only a host with GPUs would show: which GPU each gets, and where it compiles to."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

Service = dict[str, Any]

TARGET = "worker"
"""The build target whose containers paint."""
DEVICE = "OUTFILL_WORKER__DEVICE"
VISIBLE = "NVIDIA_VISIBLE_DEVICES"
CACHES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")


def worker_faults(services: dict[str, Service], dockerfile: str, monitor: str = "prometheus") -> Iterator[str]:
    """Every such fault, by the name of its service. ``monitor`` is the service that scrapes the workers."""
    image = image_environment(dockerfile)
    workers = {name: service for name, service in services.items() if (service.get("build") or {}).get("target") == TARGET}
    yield from visibility_faults(services, image)
    yield from device_faults(services, workers)
    for name, service in workers.items():
        yield from _named(name, cache_faults(service, image.get(TARGET, {})))
        if not service.get("profiles"):
            yield f"{name}: a worker needs a profile, so that it starts only where its device is"
        if TARGET not in {name, *_aliases(service, services.get(monitor, {}))}:
            yield f"{name}: {monitor} looks for {TARGET!r}, which is neither its name nor an alias on a network of both"


def visibility_faults(services: dict[str, Service], image: dict[str, dict[str, str]]) -> Iterator[str]:
    """GPUs that are asked for where the container engine has no say: by the image or by a variable."""
    for stage, variables in image.items():
        if VISIBLE in variables:
            yield f"stage {stage} sets {VISIBLE}: its containers get GPUs that nobody reserved for them"
    for name, service in services.items():
        if VISIBLE in environment(service):
            yield f"{name}: {VISIBLE} goes past the reservation; name the GPU in device_ids"


def device_faults(services: dict[str, Service], workers: dict[str, Service]) -> Iterator[str]:
    """Workers that do not have exactly one GPU of their own, and others that have one."""
    owners: dict[str, str] = {}
    for name, service in services.items():
        devices = (((service.get("deploy") or {}).get("resources") or {}).get("reservations") or {}).get("devices") or []
        device = environment(service).get(DEVICE) if name in workers else "none"
        if device not in ("cuda", "cpu", "none"):
            yield f"{name}: {DEVICE} is {device!r}; say cuda or cpu, so that it never paints on a CPU unnoticed"
        if "gpus" in service or any("count" in each for each in devices):
            yield f"{name}: a count of GPUs gives every service the first ones; name one in device_ids"
            continue
        ids = [each for reserved in devices for each in reserved.get("device_ids", [])]
        if len(ids) != (1 if device == "cuda" else 0):
            yield f"{name}: it runs on {device} and reserves {len(ids)} GPUs by id"
        for each in ids:
            if each in owners:
                yield f"{name}: GPU {each} is that of {owners[each]}"
            owners.setdefault(each, name)


def cache_faults(service: Service, image: dict[str, str]) -> Iterator[str]:
    """Caches of compiled code that cannot be written, executed or kept."""
    mounted = dict(mounts(service))
    for variable in CACHES:
        directory = (image | environment(service)).get(variable)
        if not directory:
            yield f"{variable} is not set: what is compiled goes to the home directory"
            continue
        path = PurePosixPath(directory)
        kind = next((mounted[str(each)] for each in (path, *path.parents) if str(each) in mounted), "in the image")
        if kind != "on a volume":
            yield f"{variable}={directory} is {kind}; it has to be on a volume: writable, executable and kept"


def mounts(service: Service) -> Iterator[tuple[str, str]]:
    """Where something is mounted, with its kind: a volume, a read-only one, or a tmpfs, which Docker mounts ``noexec``."""
    temporary = service.get("tmpfs") or []
    for each in [temporary] if isinstance(temporary, str) else temporary:
        yield each.split(":")[0], "on a tmpfs"
    for each in service.get("volumes") or []:
        if isinstance(each, dict):
            kind = "tmpfs" if each["type"] == "tmpfs" else "read-only volume" if each.get("read_only") else "volume"
            yield each["target"], f"on a {kind}"
        else:
            _, target, *options = re.sub(r"\$\{[^}]*\}", "variable", each).split(":")
            yield target, "on a read-only volume" if "ro" in ",".join(options).split(",") else "on a volume"


def environment(service: Service) -> dict[str, str]:
    """A service's variables; Compose takes a table or a list."""
    variables = service.get("environment") or {}
    if isinstance(variables, list):
        return dict(each.partition("=")[::2] for each in variables)
    return {name: str(value) for name, value in variables.items()}


def image_environment(dockerfile: str) -> dict[str, dict[str, str]]:
    """The ``ENV`` of each stage itself, without that of the stages below it."""
    found: dict[str, dict[str, str]] = {}
    stage = ""
    for line in re.sub(r"\\\n", " ", dockerfile).splitlines():
        if match := re.match(r"FROM\s.*\sAS\s+(\S+)", line, re.IGNORECASE):
            stage = match[1]
        elif line.startswith("ENV "):
            words = shlex.split(line.removeprefix("ENV "))
            found.setdefault(stage, {}).update(word.partition("=")[::2] for word in words)
    return found


def _aliases(service: Service, other: Service) -> Iterator[str]:
    networks = service.get("networks") or {}
    if isinstance(networks, dict):
        for network in other.get("networks") or []:
            yield from (networks.get(network) or {}).get("aliases") or []


def _named(name: str, faults: Iterator[str]) -> Iterator[str]:
    return (f"{name}: {fault}" for fault in faults)
