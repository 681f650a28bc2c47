"""Brings things with an alpha channel, for composites: ``python -m scripts.fetch_objects [DIRECTORY]``.

Pictures of food, tools, clothes, furniture and vehicles out of Microsoft's Fluent Emoji in 3D (MIT licence), 256 pixels, as an npm package holds them.
Nothing of it is in this repository, in the wheel or in an image.
"""

from __future__ import annotations

import argparse
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripts.npm import packed

PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"
CODES = (
    *range(0x1F32D, 0x1F382), 0x1F392, *range(0x1F3A0, 0x1F3C1), 0x1F3C8, 0x1F3C9, *range(0x1F451, 0x1F463), 0x1F48D, 0x1F48E, 0x1F4A1, 0x1F4B0,
    *range(0x1F4BB, 0x1F500), *range(0x1F526, 0x1F52F), *range(0x1F680, 0x1F6FD), *range(0x1F950, 0x1F970), *range(0x1F97B, 0x1F980),
    *range(0x1F9C0, 0x1F9CC), *range(0x1F9E2, 0x1FA00), *range(0x1FA70, 0x1FAAA),
)  # fmt: skip
"""Unicode's code points of things, faces, hands and flags left out."""


def main() -> int:
    """Fetch what is missing; 1 if it did not come."""
    parser = argparse.ArgumentParser(description="Bring pictures of things with an alpha channel (MIT licence), to make composites of.")
    parser.add_argument("directory", nargs="?", type=Path, default=Path("build/objects"))
    directory: Path = parser.parse_args().directory
    if directory.exists():
        print(f"{directory} is there", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory() as folder, tarfile.open(packed(PACKAGE, Path(folder))) as package:
            things = dict(_things(package))
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    directory.mkdir(parents=True)
    for name, data in things.items():
        (directory / name).write_bytes(data)
    print(f"{len(things)} pictures of {PACKAGE} in {directory}")
    return 0


def _things(package: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in package.getmembers():
        found = re.fullmatch(r"package/assets/([0-9a-f]{5})(-fe0f)?\.webp", member.name)
        file = package.extractfile(member) if found and int(found[1], 16) in CODES else None
        if file is not None:
            yield Path(member.name).name, file.read()


if __name__ == "__main__":
    raise SystemExit(main())
