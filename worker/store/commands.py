"""``outfill models pull | list | verify``: arguments in, lines of text out."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from api_schemas.errors import OutfillError
from api_schemas.models import EngineKind, ModelCard
from core.settings import Models, Settings
from worker.engines.cards import read_card, why_not_served
from worker.engines.notes import UnsupportedModelError
from worker.engines.weights import NotSafetensorsError, store_directories
from worker.images.facts import PRESETS
from worker.store.digests import differences
from worker.store.errors import StoreError
from worker.store.pull import LicenceClaim, Puller, PullRequest

REFUSALS = (StoreError, UnsupportedModelError, NotSafetensorsError, OutfillError, OSError)
COLUMNS = ("model", "revision", "licence", "commercial use", "native size", "memory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``models``."""
    commands = parser.add_subparsers(dest="command", required=True)
    pull = commands.add_parser("pull", help="fetch weights, verify them, and put them into the store")
    pull.add_argument("source", help="hub:OWNER/NAME@COMMIT, s3://BUCKET/PREFIX, a directory, a .safetensors or an .onnx file")
    pull.add_argument("--as", dest="name", required=True, help="name that the model (or LoRA) gets")
    pull.add_argument("--sha256", type=_digest, help="of the source's SHA256SUMS, or of the one file")
    pull.add_argument("--variant", help="take these weights, e.g. fp16, where a folder has them")
    pull.add_argument("--config", type=Path, help="for a single-file checkpoint: diffusers directory that describes it")
    pull.add_argument(
        "--facts", metavar="NAME|FILE", help=f"for a segmenter: how its pictures are prepared; {', '.join(PRESETS)}, or a segmenter.json"
    )
    pull.add_argument("--file", help="for a segmenter: its .onnx file, where the source has several")
    pull.add_argument("--lora-of", metavar="MODEL", help="the file is a LoRA for this model of the store")
    pull.add_argument("--licence", help="id, e.g. CreativeML-OpenRAIL-M")
    pull.add_argument("--licence-url")
    pull.add_argument("--commercial-use", choices=["yes", "no"])
    pull.add_argument("--replace", action="store_true", help="put it in the place of what has the name now")
    commands.add_parser("list", help="what is in the store")
    verify = commands.add_parser("verify", help="check models against their SHA256SUMS; exit 1 if one differs")
    verify.add_argument("name", nargs="?", help="default: all")


def needs_network(arguments: argparse.Namespace) -> bool:
    """Whether the hub is to be asked."""
    return arguments.command == "pull" and str(arguments.source).startswith("hub:")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Run one command; 1 where it was refused, with the reason on standard error."""
    try:
        match arguments.command:
            case "pull":
                return _pull(arguments, settings)
            case "verify":
                return _verify(settings.models.store, arguments.name)
            case _:
                return _list(settings.models)
    except REFUSALS as error:
        because = f": {error.__cause__}" if isinstance(error, OutfillError) and error.__cause__ else ""
        print(f"outfill models: {error}{because}", file=sys.stderr)
        return 1


def _pull(arguments: argparse.Namespace, settings: Settings) -> int:
    puller = Puller(settings.models, settings.s3, say=print)
    licence = LicenceClaim(arguments.licence, arguments.licence_url, {"yes": True, "no": False}.get(arguments.commercial_use))
    if arguments.lora_of:
        if licence != LicenceClaim() or arguments.variant or arguments.config or arguments.facts or arguments.file:
            raise StoreError("--lora-of goes with --as, --sha256 and --replace only")
        target = puller.pull_lora(
            arguments.source, model=arguments.lora_of, name=arguments.name, pin=arguments.sha256, replace=arguments.replace
        )
        print(f"{target} is installed; workers offer it when they start again")
        return 0
    request = PullRequest(
        source=arguments.source,
        name=arguments.name,
        sha256=arguments.sha256,
        variant=arguments.variant,
        config=arguments.config,
        facts=arguments.facts,
        file=arguments.file,
        licence=licence,
        replace=arguments.replace,
    )
    card = puller.pull(request)
    refusal = why_not_served(card, allow_noncommercial=settings.models.allow_noncommercial)
    used = (
        "workers draw edges with it once OUTFILL_MODELS__EDGE_MODEL names it" if card.engine is EngineKind.MATTING else "workers serve it"
    )
    served = f"workers do not serve it: {refusal}" if refusal else f"{used} when they start again"
    print(f"{settings.models.store / card.id} is installed; {served}")
    print(_described(card))
    return 0


def _list(models: Models) -> int:
    rows: list[tuple[str, ...]] = [COLUMNS]
    refused = []
    for name, directory in store_directories(models.store).items():
        try:
            card = read_card(directory, name)
            rows.append(_row(card))
            if reason := why_not_served(card, allow_noncommercial=models.allow_noncommercial):
                refused.append(f"{name} is not served: {reason}")
        except UnsupportedModelError as error:
            refused.append(f"{name} cannot be served: {error}")
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for line in refused:
        print(line)
    return 0


def _verify(store: Path, name: str | None) -> int:
    directories = store_directories(store)
    if name is not None:
        if name not in directories:
            raise StoreError(f"{name} is not in {store}")
        directories = {name: directories[name]}
    failed = False
    for model, directory in directories.items():
        try:
            found = list(differences(directory))
        except StoreError as error:
            found = [str(error)]
        failed = failed or bool(found)
        print(f"{model}: {'differs' if found else 'as pulled'}", *(f"  {line}" for line in found), sep="\n")
    return int(failed)


def _row(card: ModelCard) -> tuple[str, ...]:
    return (card.id, card.revision, card.licence.id, _commercial(card), str(card.native_size or "any"), _memory(card))


def _described(card: ModelCard) -> str:
    facts = {
        "id": card.id,
        "revision": card.revision,
        "operations": ", ".join(card.operations) or "none by itself",
        "native size": f"{card.native_size} px" if card.native_size else "any",
        "licence": f"{card.licence.id} {card.licence.url or ''}".rstrip(),
        "commercial use": _commercial(card),
        "memory": f"{_memory(card)} of weights{' at half precision' if card.engine is EngineKind.DIFFUSION else ''}",
    }
    return "\n".join(f"  {name:<16}{value}" for name, value in facts.items())


def _commercial(card: ModelCard) -> str:
    return {True: "yes", False: "no", None: "not known"}[card.licence.commercial_use]


def _memory(card: ModelCard) -> str:
    size = card.memory_bytes or 0
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError("a SHA-256 has 64 hex digits (lower case)")
    return text
