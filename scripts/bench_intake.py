"""Intake of the odd-files corpus, of this commit against another: how much longer honest files take to be checked and decoded.

    python -m scripts.bench_intake --against TREE [--rounds N]

TREE is a worktree of the other commit (``git worktree add TREE COMMIT``). Each commit runs in a process of its own, warmed up, and does with each file
what the API does (``service.intake``) and what a worker does (``worker.images.codec``), in processes of their own where the commit does so; the two take
turns, file by file, and the one that goes first alternates. Seconds on the clock are compared, since a commit may decode in a process of its own, and of each file the best round counts,
so that what else the machine does hardly matters. build/bench/intake.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from scripts.figures import exit_status, figure, figure_table, write_figures

LIMIT = 1.1
PHOTO = (4000, 3000)
"""Of those that are timed beside the corpus, whose files have but 32×24 pixels."""
_TURN = """
import importlib.util, sys
sys.path.insert(0, sys.argv[1])
spec = importlib.util.spec_from_file_location("bench_intake", sys.argv[2])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.serve()
"""


def main() -> int:
    """Time, print, write; 1 if this commit takes more than ``LIMIT`` times as long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="a worktree of the other commit")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    here = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder, _turns(here) as ours, _turns(options.against.resolve()) as theirs:
        paths = _corpus(here, Path(folder))
        sides = {"ours": ours, "theirs": theirs}
        seconds: dict[str, dict[str, list[float]]] = {side: {name: [] for name in paths} for side in sides}
        for turn in range(options.rounds + 1):  # the first warms up
            for number, (name, path) in enumerate(paths.items()):
                for side in sorted(sides, reverse=bool((turn + number) % 2)):
                    seconds[side][name].append(sides[side].ask(path))
    return _report(seconds)


def _corpus(here: Path, folder: Path) -> dict[str, Path]:
    """The odd files and two photos by name."""
    sys.path.append(str(here / "tests"))
    from odd_files import odd_files  # noqa: PLC0415 - tests are not on the path of scripts

    files = {name: file.data for name, file in odd_files().items()}
    ramp = Image.linear_gradient("L").resize(PHOTO)
    photo = Image.merge("RGB", [ramp, ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT), Image.effect_noise(PHOTO, 20)])
    for kind in ("PNG", "JPEG"):
        buffer = BytesIO()
        photo.save(buffer, kind)
        files[f"photo.{kind.lower()}"] = buffer.getvalue()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in files}


def _report(seconds: Mapping[str, Mapping[str, list[float]]]) -> int:
    best = {side: {name: min(values[1:]) for name, values in by_file.items()} for side, by_file in seconds.items()}
    odd = [name for name in best["ours"] if not name.startswith("photo.")]
    totals = {side: sum(values[name] for name in odd) for side, values in best.items()}
    ratios = {name: best["ours"][name] / best["theirs"][name] for name in best["ours"]}
    table = Table("files", "ours, ms", "theirs, ms", "ratio")
    table.add_row(
        f"{len(odd)} odd files", *(f"{1000 * totals[side]:.1f}" for side in ("ours", "theirs")), f"{totals['ours'] / totals['theirs']:.2f}"
    )
    slower = sorted(odd, key=lambda name: best["ours"][name] - best["theirs"][name], reverse=True)[:8]
    for name in [*slower, *(name for name in ratios if name not in odd)]:
        table.add_row(name, *(f"{1000 * best[side][name]:.2f}" for side in ("ours", "theirs")), f"{ratios[name]:.2f}")
    console = Console(width=120)
    console.print(table)
    console.print(f"by file: median {statistics.median(ratios[name] for name in odd):.2f}; listed are those that lost most, and two photos")
    figures = {"intake_over_the_other": figure(totals["ours"] / totals["theirs"], LIMIT)}
    # The corpus has bombs, which cost less than they did: the sum alone would hide what honest photos pay.
    figures |= {f"{name.replace('.', '_')}_over_the_other": figure(ratio, LIMIT) for name, ratio in ratios.items() if name not in odd}
    console.print(figure_table(figures))
    write_figures("intake", figures)
    return exit_status(figures)


class _Side:
    """A process with one commit's readers."""

    def __init__(self, questions: IO[str], answers: IO[str]) -> None:
        self._questions, self._answers = questions, answers

    def ask(self, path: Path) -> float:
        """Seconds that a file takes."""
        self._questions.write(f"{path}\n")
        self._questions.flush()
        return float(json.loads(self._answers.readline()))


@contextmanager
def _turns(tree: Path) -> Iterator[_Side]:
    command = [sys.executable, "-W", "ignore", "-c", _TURN, str(tree), __file__]
    with subprocess.Popen(  # noqa: S603 - a fixed command
        command, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        yield _Side(process.stdin, process.stdout)
        process.stdin.close()


def serve() -> None:
    """Answer the path of a file with the seconds that it takes, line by line."""
    from api_schemas.errors import OutfillError  # noqa: PLC0415 - of the commit that is timed

    check, decode = _readers()

    def taken(data: bytes) -> float:
        began = time.perf_counter()
        try:
            check(data)
            decode(data)
        except OutfillError:
            pass  # it is timed how long that takes to find
        return time.perf_counter() - began

    answers: Any = sys.stdout
    for line in sys.stdin:
        print(json.dumps(taken(Path(line.rstrip("\n")).read_bytes())), file=answers, flush=True)


def _readers() -> tuple[Callable[[bytes], object], Callable[[bytes], object]]:
    """What the API and the worker of the commit do with a file: in processes of their own, if it has them."""
    from service import intake  # noqa: PLC0415 - of the commit that is timed
    from worker.images import codec  # noqa: PLC0415

    most = 80_000_000
    if not hasattr(intake, "check_apart"):
        return lambda data: intake.check({"image": data}, None, most), lambda data: codec.decode(data, max_pixels=most)
    from core.settings import Limits  # noqa: PLC0415
    from imagefiles.sandbox import Sandbox  # noqa: PLC0415
    from worker.decoding import SandboxedDecoder  # noqa: PLC0415

    limits = Limits()
    checking, decoding = (Sandbox(module, 2, memory=limits.decoding_bytes) for module in ("service.intake", "worker.decoding"))
    decoder = SandboxedDecoder(decoding, limits, lambda: None)
    return lambda data: intake.check_apart(checking, limits, {"image": data}), lambda data: decoder.decode(data, max_pixels=most)


if __name__ == "__main__":
    sys.exit(main())
