"""What `make race` measures with: the work of the peers, and the checks that nobody wins by leaving some of it out."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest
from conftest import pixels_of, png
from PIL import Image

from loadtests.peers import race
from loadtests.peers.contest import SERVERS, Asked, Contestant
from scripts.processes import cpu_s

BURN = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"


@pytest.fixture(scope="module")
def stock() -> ModuleType:
    """The module of the peers, which lies in no package."""
    spec = importlib.util.spec_from_file_location("peers_stock", SERVERS / "stock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def noise(prompts: list[str], *, height: int, width: int, **_: Any) -> SimpleNamespace:
    """A pipeline that paints noise."""
    random = np.random.default_rng(1)
    return SimpleNamespace(images=[Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)) for _ in prompts])


@pytest.mark.parametrize("side", [256, 300, 768])
def test_a_peer_keeps_what_is_to_be_kept(stock: ModuleType, side: int) -> None:
    """Photos larger than the model's picture are painted in a window around the mask and pasted: what the mask leaves is the photo's."""
    jobs = race.asked(side, 3, (4,))
    for answer, job in zip(stock.paint(noise, [stock.Job(**vars(job)) for job in jobs]), jobs, strict=True):
        race.check(answer, job)
        kept = pixels_of(job.mask) == 0
        np.testing.assert_array_equal(pixels_of(answer)[kept], pixels_of(job.image)[kept])


def test_unequal_steps_are_no_batch(stock: ModuleType) -> None:
    """A stock pipeline takes one number of steps: jobs of several must come in buckets."""
    with pytest.raises(ValueError, match="too many values"):
        stock.paint(noise, [stock.Job(**vars(job)) for job in race.asked(256, 2, (4, 5))])


@pytest.mark.parametrize("fault", ["nothing", "everything", "smaller"])
def test_a_picture_that_is_not_what_was_asked_for_wins_nothing(fault: str) -> None:
    """The photo itself, another photo, and a picture of another size end the race."""
    (job,) = race.asked(256, 1, (4,))
    photo = pixels_of(job.image)
    answer = {"nothing": photo, "everything": 255 - photo, "smaller": photo[::2, ::2]}[fault]
    with pytest.raises(RuntimeError, match=r"size|kept|painted"):
        race.check(png(answer), job)


class Frail:
    """Answers one request, then holds all until it is killed; some of those it has forgotten."""

    cold_s = 0.0

    def __init__(self, forgets: int) -> None:
        self._forgets, self._asked, self._killed = forgets, 0, asyncio.Event()

    async def paint(self, _http: httpx.AsyncClient, _job: Asked) -> bytes:
        self._loop, self._asked = asyncio.get_running_loop(), self._asked + 1
        number = self._asked
        if number > 2:  # the first alone, and the first of all
            await self._killed.wait()
        if 2 < number <= 2 + self._forgets:
            if number % 2:
                raise httpx.ReadError("the connection is gone")
            await asyncio.Event().wait()  # its caller is never told
        return b""

    def kill(self) -> None:
        self._loop.call_soon_threadsafe(self._killed.set)


@pytest.mark.parametrize("forgets", [0, 3])
def test_what_is_lost_at_a_kill_is_counted(forgets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken connections and callers who are never told are both losses; whoever answers after all is none."""
    monkeypatch.setattr(race, "_PATIENCE", 1e3)
    contestant = cast("Contestant", Frail(forgets))
    assert race.lost_at_a_kill(contestant, race.asked(256, 6, (4,))) == forgets


def test_time_of_children_counts() -> None:
    """Whoever computes in processes of its own pays for them."""
    program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert cpu_s([process.pid]) >= 0.5
        process.communicate(b"\n")


def test_the_photos_have_what_is_painted_in_the_models_own_pixels() -> None:
    """The mask is at most 170 pixels wide whatever the photo's size, so that a window of 256 holds it: nobody paints larger than another."""
    for side in (256, 768, 2048):
        image, mask = race.photo(side)
        with Image.open(io.BytesIO(image)) as photo, Image.open(io.BytesIO(mask)) as marked:
            box = marked.getbbox()
            assert photo.size == (side, side)
            assert box is not None
            assert max(box[2] - box[0], box[3] - box[1]) <= 170


def test_the_servers_are_files_of_their_own() -> None:
    """They run in another environment and import nothing of Outfill."""
    for file in Path(SERVERS).glob("*.py"):
        text = file.read_text()
        assert not [name for name in ("service", "worker", "core", "api_schemas", "scripts") if f"from {name}" in text], file
