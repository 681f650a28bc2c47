"""Studio, the model that ships with Outfill: what it says of itself, and what it paints."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch")

from painting import begun

from api_schemas.models import STUDIO
from worker.engines.base import Engine, PaintRequest, Sampling
from worker.engines.diffusion.card import card_for
from worker.engines.registry import build_engine
from worker.engines.weights import EMBEDDED

DIRECTORY = EMBEDDED / STUDIO.id
SIDE, STEPS = 256, 10
LIMIT_BYTES = 40 * 2**20

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return build_engine(STUDIO, path=DIRECTORY)


def painted(engine: Engine, *prompts: str) -> list[npt.NDArray[np.uint8]]:
    """One whole picture for each prompt, from the same noise."""
    grey, whole = np.full((SIDE, SIDE, 3), 127, np.uint8), np.full((SIDE, SIDE), 255, np.uint8)
    defaults = STUDIO.sampling
    assert defaults is not None
    slots = [
        begun(engine, PaintRequest(grey, whole, 3, Sampling(prompt, "", STEPS, defaults.guidance_scale, 1.0, defaults.scheduler)))
        for prompt in prompts
    ]
    while not all(slot.done for slot in slots):
        engine.step(slots)
    return engine.finish(slots)


def lab_of(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.cvtColor((picture / np.float32(255)).astype(np.float32), cv2.COLOR_RGB2LAB), np.float32)


def median_lab(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    return np.asarray(np.median(lab_of(picture).reshape(-1, 3), axis=0), np.float32)


def share_of_teal(picture: npt.NDArray[np.uint8]) -> float:
    lab = lab_of(picture)
    return float(((lab[..., 1] < -12) & (lab[..., 2] < -2)).mean())


def grain(picture: npt.NDArray[np.uint8]) -> float:
    """How much neighbouring pixels differ: 1 to 6 in a photo or a scene, above 60 in noise."""
    grey = picture.astype(np.float32).mean(axis=2)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


def test_its_static_card_is_what_its_directory_says() -> None:
    """Jobs for Studio are resolved before any worker announced it, from a card equal to the one that is read from its files."""
    assert card_for(DIRECTORY, STUDIO.id) == STUDIO


def test_its_files_are_small_and_plain() -> None:
    """All of Studio is at most 40 MB of safetensors, JSON and text."""
    files = [file for file in DIRECTORY.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= LIMIT_BYTES
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt", ".md"}


def test_it_is_in_the_wheel(tmp_path: Path) -> None:
    """Whoever installs Outfill's wheel has Studio's weights."""
    root = Path(__file__).resolve().parents[2]
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(root)]
    subprocess.run(build, check=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"worker/embedded/studio/{file.relative_to(DIRECTORY).as_posix()}" for file in DIRECTORY.rglob("*") if file.is_file()}
    assert wanted <= names


@pytest.mark.parametrize(
    ("prompt", "channel", "sign"),
    [("red paper backdrop", 1, 1), ("green paper backdrop", 1, -1), ("yellow paper backdrop", 2, 1), ("blue paper backdrop", 2, -1)],
)
def test_the_prompt_decides_the_colour(engine: Engine, prompt: str, channel: int, sign: int) -> None:
    """The colour that a prompt names is the colour of the backdrop: its CIELAB a or b is on that side by more than 20."""
    (picture,) = painted(engine, prompt)
    assert median_lab(picture)[channel] * sign > 20


def test_light_and_dark_are_told_apart(engine: Engine) -> None:
    """White marble is light, a dark wooden table is dark."""
    white, dark = painted(engine, "white marble", "dark wooden table")
    assert median_lab(white)[0] > 65
    assert median_lab(dark)[0] < 45


def test_the_end_of_a_long_prompt_is_heard(engine: Engine) -> None:
    """Behind a long opening of photographers' talk, each of two endings is what is painted: a teal wall and a dark table; pink paper."""
    opening = "Professional e-commerce product photograph, ultra sharp, 8k, award-winning, Hasselblad, shallow depth of field, "
    room, paper = painted(engine, opening + "dark wooden table, teal wall", opening + "seamless pink paper")
    assert share_of_teal(room[:80]) > 0.9
    table, pink = median_lab(room[-60:]), median_lab(paper)
    assert (table[0] < 45, table[2] > 3) == (True, True)
    assert (pink[0] > 65, pink[1] > 20) == (True, True)


def test_a_prompt_of_many_known_words_is_read_to_its_end(engine: Engine) -> None:
    """Words that Studio knows are heard behind the 30 that its text encoder reads at once."""
    opening = "professional product photo, high quality, photorealistic, sharp focus, elegant, clean, beautiful, minimal, realistic, " * 2
    red, blue = painted(engine, opening + "red paper backdrop", opening + "blue paper backdrop")
    assert median_lab(red)[1] > 20
    assert median_lab(blue)[2] < -20


def test_a_weight_makes_more_or_less_of_its_words(engine: Engine) -> None:
    """With a weight of 1.6 more of the picture is teal than with one of 1, and with one of 0.2 none; the table stays dark."""
    heavy, plain, light = painted(engine, *(f"dark wooden table, (teal wall:{weight})" for weight in (1.6, 1, 0.2)))
    assert np.abs(heavy.astype(int) - light).mean() > 8
    assert share_of_teal(heavy) > share_of_teal(plain) + 0.05 > 0.3
    assert share_of_teal(light) < 0.05
    assert median_lab(light[-60:])[0] < 45


@pytest.mark.parametrize("prompt", ["", "zxqv frobnicate 12 !!", "ein heller Holztisch vor einer blauen Wand", "白い大理石のテーブル"])
def test_what_it_does_not_understand_still_gives_a_backdrop(engine: Engine, prompt: str) -> None:
    """No prompt, unknown words and other languages give a smooth picture with some contrast left, neither noise nor one clipped colour."""
    (picture,) = painted(engine, prompt)
    assert 0.2 < grain(picture) < 20
    clipped = ((picture == 0) | (picture == 255)).all(axis=2).mean()
    assert clipped < 0.2
