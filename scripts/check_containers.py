"""Checks Dockerfile.gpu, docker-compose.yml, .env.example and deploy/prometheus without a container engine.

    python -m scripts.check_containers [ROOT]

They must lint, match their schemas, start what the local stack starts, name only settings that exist, and give each worker a GPU of
its own (scripts/worker_services.py).
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from core.settings import Settings
from scripts.worker_services import worker_faults
from service import seaweedfs
from service.local import API_COMMAND, PAINT_COMMAND, STEWARD_COMMAND

DOCKERFILE, COMPOSE, EXAMPLE, PROMETHEUS = "Dockerfile.gpu", "docker-compose.yml", ".env.example", "deploy/prometheus"
COMMANDS = {"api": API_COMMAND, "worker": PAINT_COMMAND, "steward": STEWARD_COMMAND}
_PREFIX = "OUTFILL_"
_IMAGE = re.compile(r"(?P<name>.+):(?P<tag>[\w.-]+)(@sha256:[0-9a-f]{64})?")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every fault; 1 if there is one."""
    parser = argparse.ArgumentParser(description="Check the container files without a container engine.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parent.parent)
    root: Path = parser.parse_args(arguments).root
    faults = list(all_faults(root))
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"containers: {len(faults)} faults" if faults else "containers: no faults")
    return 1 if faults else 0


def all_faults(root: Path) -> Iterator[str]:
    """What is wrong, one fault a string. Later checks read what the schema vouches for, so a broken schema ends the list."""
    broken = [
        *_run(root, _tool("hadolint"), DOCKERFILE),
        *_run(root, _tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE),
    ]
    yield from broken
    yield from prometheus_faults(root)
    if broken:
        return
    services: dict[str, dict[str, Any]] = yaml.safe_load((root / COMPOSE).read_text())["services"]
    yield from image_faults(services)
    yield from command_faults(services, default_commands((root / DOCKERFILE).read_text()))
    yield from (f"{COMPOSE}: {fault}" for fault in worker_faults(services, (root / DOCKERFILE).read_text()))
    yield from store_faults(services)
    yield from setting_faults(root)
    yield from variable_faults(root)
    yield from profile_faults(root, services)


def image_faults(services: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Images without a tag that stays."""
    for name, service in services.items():
        match = _IMAGE.fullmatch(service.get("image", ""))
        if match is None or match["tag"] == "latest":
            yield f"{COMPOSE}: {name}: the image {service.get('image')!r} needs a tag, and not latest"


def command_faults(services: dict[str, dict[str, Any]], defaults: dict[str, list[str]]) -> Iterator[str]:
    """Commands, and defaults of the images, that the local stack does not run."""
    for role, expected in COMMANDS.items():
        instances = [name for name in services if name == role or name.startswith(f"{role}-")]
        if not instances:
            yield f"{COMPOSE}: there is no service {role}"
        for name in instances:
            command = services[name].get("command") or defaults.get(services[name]["build"]["target"], [])
            words = shlex.split(command) if isinstance(command, str) else command
            if tuple(words[: len(expected)]) != expected:
                yield f"{COMPOSE}: {name} runs {words}; the local stack runs {list(expected)}"
    for stage, words in defaults.items():
        if not any(tuple(words[: len(known)]) == known for known in COMMANDS.values()):
            yield f"{DOCKERFILE}: stage {stage} runs {words}, which the local stack does not"


def store_faults(services: dict[str, dict[str, Any]]) -> Iterator[str]:
    """An object store with other options than the local stack's, with a way in from outside, or whose keys others can read."""
    store = services.get("s3", {})
    command = store.get("command", [])
    missing = [option for option in ("-config_dir=/keys", *seaweedfs.OPTIONS) if option not in command]
    if missing:
        yield f"{COMPOSE}: s3 runs without {' '.join(missing)}, which the local stack has"
    opened = [option for option in command if ".bind=" in option and option not in (*seaweedfs.OPTIONS, "-s3.ip.bind=0.0.0.0")]
    if opened:
        yield f"{COMPOSE}: s3 listens where only itself may reach it: {' '.join(opened)}"
    if set(store.get("networks", ())) != {"store"} or store.get("ports"):
        yield f"{COMPOSE}: s3 is to be reached on the network store alone; s3-public is for callers"
    for name, service in services.items():
        if name not in ("s3", "s3-init") and any(str(volume).startswith("s3-keys") for volume in service.get("volumes", ())):
            yield f"{COMPOSE}: {name} mounts s3-keys, the certificates of the object store"


def default_commands(dockerfile: str) -> dict[str, list[str]]:
    """The ``CMD`` of every stage that has one. A shell form matches nothing: signals would not arrive."""
    found: dict[str, list[str]] = {}
    stage = ""
    for line in dockerfile.splitlines():
        if match := re.match(r"FROM\s.*\sAS\s+(\S+)", line, re.IGNORECASE):
            stage = match[1]
        elif line.startswith("CMD"):
            text = line.removeprefix("CMD").strip()
            found[stage] = json.loads(text) if text.startswith("[") else [text]
    return found


def setting_names(model: type[BaseModel] = Settings, prefix: str = _PREFIX) -> Iterator[str]:
    """Every variable that ``Settings`` reads."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from setting_names(kind, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}"


def setting_faults(root: Path) -> Iterator[str]:
    """``OUTFILL_*`` names, in comments too, that no setting has: the service would ignore them without a word."""
    known = set(setting_names())
    for file in (DOCKERFILE, COMPOSE, EXAMPLE):
        for number, line in enumerate((root / file).read_text().splitlines(), start=1):
            for name in re.findall(rf"{_PREFIX}\w+", line):
                if name not in known:
                    yield f"{file}:{number}: {name} is not a setting (core/settings.py)"


def variable_faults(root: Path) -> Iterator[str]:
    """Variables that Compose substitutes and the example does not explain, and the other way round."""
    text = (root / COMPOSE).read_text()
    used = set(re.findall(r"\$\{(\w+)", text)) | set(re.findall(r"^    environment: (\w+)$", text, re.MULTILINE))  # of secrets
    explained = set(re.findall(r"^(\w+)=", (root / EXAMPLE).read_text(), re.MULTILINE))
    for name in sorted(used - explained):
        yield f"{EXAMPLE}: {name} is missing; {COMPOSE} asks for it"
    for name in sorted(explained - used):
        yield f"{EXAMPLE}: {name} is not used by {COMPOSE}"


def profile_faults(root: Path, services: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Profiles that the example chooses and no service has: Compose would start nothing for them, without a word."""
    known = {profile for service in services.values() for profile in service.get("profiles", [])}
    chosen = re.findall(r"^COMPOSE_PROFILES=(.*)$", (root / EXAMPLE).read_text(), re.MULTILINE)
    for profile in ",".join(chosen).split(","):
        if profile.strip() not in known:
            yield f"{EXAMPLE}: COMPOSE_PROFILES names {profile.strip()!r}, which is no profile of {COMPOSE}"


def prometheus_faults(root: Path) -> Iterator[str]:
    """What promtool says; where it is not installed, whether the files are YAML."""
    config, rules = f"{PROMETHEUS}/prometheus.yml", f"{PROMETHEUS}/alerts.yml"
    promtool = shutil.which("promtool")
    if promtool is not None:
        yield from _run(root, promtool, "check", "config", "--syntax-only", config)  # its token is a file of the container's
        yield from _run(root, promtool, "check", "rules", rules)
        return
    print("promtool is not installed: the Prometheus files are checked for YAML only")
    for file in (config, rules):
        try:
            yaml.safe_load((root / file).read_text())
        except yaml.YAMLError as error:
            yield f"{file}: {error}"


def _tool(name: str) -> str:
    """A program of this environment."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or name


def _run(root: Path, *command: str) -> Iterator[str]:
    """The lines of a program that is not content, or word that it is missing."""
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603 - our own commands
    except FileNotFoundError:
        yield f"{command[0]} is not installed: pip install 'outfill[dev]'"
        return
    if done.returncode:
        lines = itertools.chain(done.stdout.splitlines(), done.stderr.splitlines())
        yield from ([line for line in lines if line.strip()] or [f"{shlex.join(command)} ended with {done.returncode}"])


if __name__ == "__main__":
    sys.exit(main())
