"""Rendered scenes on disk: shards of pixels that are mapped, not read, and one line of facts for each scene."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from training.studio.facts import Facts
from training.studio.recipe import Recipe
from training.studio.scene import contact_sheet, draw_scene

Bytes = npt.NDArray[np.uint8]


def write_whole(file: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file that appears under its name only when it is complete."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{os.getpid()}.{file.name}")
    write(partial)
    partial.replace(file)


def render(recipe: Recipe, work: Path, log: Callable[[str], None], processes: int = 1) -> None:
    """Draw all scenes, shard by shard, in ``processes``; shards that exist are left alone."""
    for end in each_shard(partial(_render_shard, recipe, work), recipe, work / "scenes", ".npy", processes):
        log(f"scenes {end} of {recipe.scenes}")


def each_shard(do: Callable[[int], int], recipe: Recipe, folder: Path, extension: str, processes: int) -> Iterator[int]:
    """What ``do(start)`` returns for each shard of which ``folder`` has no file, in ``processes`` of one thread each."""
    missing = [start for start in range(0, recipe.scenes, recipe.shard) if not (folder / f"{start:06d}{extension}").exists()]
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(do, missing)


def _render_shard(recipe: Recipe, work: Path, start: int) -> int:
    """The number of its last scene, plus one."""
    file, end = work / "scenes" / f"{start:06d}.npy", min(start + recipe.shard, recipe.scenes)
    scenes = [draw_scene(recipe.seed, index) for index in range(start, end)]
    facts = "".join(json.dumps(scene.facts.to_dict()) + "\n" for scene in scenes)
    write_whole(file.with_suffix(".jsonl"), partial(_write_text, text=facts))
    if start == 0:
        sheet(work / "scenes" / "sheet.png", contact_sheet([scene.rgb for scene in scenes[:80]], 10, 192))
    save_array(file, np.stack([np.dstack([scene.rgb, scene.subject]) for scene in scenes]))
    return end


class Scenes:
    """The rendered scenes, by number."""

    def __init__(self, work: Path) -> None:
        files = sorted((work / "scenes").glob("*.npy"))
        self._shards: list[Bytes] = [np.load(file, mmap_mode="r") for file in files]
        self._shard = len(self._shards[0])
        self.facts = [
            Facts.from_dict(json.loads(line)) for file in files for line in file.with_suffix(".jsonl").read_text("utf-8").splitlines()
        ]

    def __len__(self) -> int:
        return len(self.facts)

    def pixels(self, index: int) -> Bytes:
        """``uint8 (H, W, 4)``: RGB and the matte of the kept object. Mapped: copy before writing."""
        shard: Bytes = self._shards[index // self._shard]
        scene: Bytes = shard[index % self._shard]
        return scene


def sheet(file: Path, pixels: Bytes) -> None:
    """Write ``pixels`` as a PNG or JPEG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def save_array(file: Path, values: npt.NDArray[Any]) -> None:
    """``numpy.save`` to exactly this name, whole or not at all."""

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.save(stream, values)

    write_whole(file, write)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
