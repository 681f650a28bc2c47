"""Planted painters through the real path, and what came of what they painted."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from api_schemas.jobs import ModelError, Preserved, Report, Verdict
from api_schemas.requests import JobRequest, Level
from scripts.planted.borders import Rim
from scripts.planted.fills import GROUPS
from scripts.planted.flaws import Shift, Shown
from scripts.planted.painters import Painter, painters
from scripts.planted.scenes import BACKGROUND, Kind, Scene, examiner, scenes
from worker.images.blend import paste
from worker.images.codec import Frame
from worker.images.crop import restore
from worker.intake import Edit
from worker.rounds import Rounds

Array = npt.NDArray[np.uint8]
_NOTHING_SAID = Report(
    preserved=Preserved(max_delta=0, changed_pixels=0, kept_pixels=0, sha256=""), coverage=0, verdict=Verdict(level=Level.PASS)
)
_RAISED = (1.0, 1.4, 2.0, 2.8, 4.0)
"""How far a rim's levels are raised until enough of them are left once it is pasted."""


@dataclass(frozen=True)
class Case:
    """One edit by one painter."""

    photo: str
    operation: str
    model: str
    painter: str
    fill: str
    p99: float
    """Levels off what was meant, where the pasted alpha is 255: the 99th percentile of the pixels, by their worst channel."""
    mean: float
    """The same, the mean of all channels."""
    largest: int
    left: float | None
    """Of a shift: the mean difference from what was meant, as a share of what it would be uncorrected."""
    there: bool
    """Of a rim or a step: whether it is in the output as its definition says, and what is told of it is told of nothing else there."""
    level: Level | None
    """Of the verdict; ``None`` where it was not asked for."""
    reasons: tuple[str, ...]
    kept: bool
    """Whether all kept pixels are the input's."""
    seconds: float
    """Of composing, without grading and encoding."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the path made of a painter's pixels."""

    pixels: Array
    report: Report
    seconds: float


def cases(name: str, picture: Array, number: int, *, kinds: Callable[[Kind], bool], named: Callable[[str], bool]) -> Iterator[Case]:
    """Every case of one photo whose kind of edit and painter are wanted."""
    for scene in scenes(name, picture, number, kinds):
        for painter in painters(scene.kind, number):
            if named(painter.name) and (painter.flaw is None or painter.flaw.applies(scene)):
                found = graded(scene, painter)
                if found is not None:
                    yield found


def graded(scene: Scene, painter: Painter) -> Case | None:
    """One case; ``None`` where the flaw cannot be planted as its definition says."""
    painter_planted = planted(scene, painter)
    if painter_planted is None:
        return None
    painter, painted = painter_planted
    asked = is_judged(scene, painter)
    outcome = flawless(scene, painter.wanted) if asked and painter.flaw is None else delivered(scene, painter, graded=asked)
    meant = pasted(scene, painter.meant) if isinstance(painter.flaw, Shift) else painted
    whole = scene.plan.edit.alpha == 255
    off = np.abs(outcome.pixels[whole].astype(np.int16) - meant[whole])
    uncorrected = np.abs(painted[whole].astype(np.int16) - meant[whole]).mean()
    return Case(
        photo=scene.photo,
        operation=scene.kind.name,
        model=scene.card.id,
        painter=painter.name,
        fill=painter.fill,
        p99=float(np.percentile(off.max(axis=1), 99)),
        mean=float(off.mean()),
        largest=int(off.max()),
        left=float(off.mean() / uncorrected) if uncorrected > 0 else None,
        there=asked and _is_there(scene, painter, outcome.pixels),
        level=outcome.report.verdict.level if asked else None,
        reasons=outcome.report.verdict.reasons,
        kept=_kept(scene, outcome.pixels),
        seconds=outcome.seconds,
    )


def _is_there(scene: Scene, painter: Painter, output: Array) -> bool:
    """Whether the error is in the output, and the same picture without it passes: else it cannot be said that it was caught."""
    if painter.flaw is None or not painter.flaw.present(scene, output):
        return False
    return flawless(scene, painter.wanted).report.verdict.level is Level.PASS


@lru_cache(maxsize=8)
def flawless(scene: Scene, wanted: Callable[[Scene], Array]) -> Outcome:
    """What a painter without an error gets for a picture."""
    return delivered(scene, Painter("flawless", "", wanted))


def is_judged(scene: Scene, painter: Painter) -> bool:
    """Whether the verdict is asked for.

    Not where the input itself brings a doubt, whatever is painted (a product that the photo's border cuts, before an extension without a prompt). Behind a product the report looks for the product in the output, which tells nothing here where another thing stands out there too, or where
    the photo hides the ellipse that was cut from it.
    """
    if examiner().brought(scene.spec.request, scene.plan.edit).level is not Level.PASS:
        return False
    return (
        scene.kind is not BACKGROUND
        or painter.name in ("rimmed", "stepped")
        or (painter.name == "perfect" and GROUPS[painter.fill] != "object")
    )


def planted(scene: Scene, painter: Painter) -> tuple[Painter, Array] | None:
    """``painter`` with a flaw that is seen in what it painted, once that is pasted, and that picture; ``None`` where none can be."""
    flaw = painter.flaw
    if not isinstance(flaw, Rim):
        return painter, pasted(scene, painter.paint)
    for factor in _RAISED:
        raised = replace(painter, flaw=replace(flaw, levels=flaw.levels * factor))
        painted = pasted(scene, raised.paint)
        if flaw.height(scene, painted, 25) >= 12:
            return raised, painted
    return None


def pasted(scene: Scene, paint: Callable[[Shown], Array]) -> Array:
    """What ``paint`` answers, scaled back and pasted, and nothing else done to it: ``uint8 (H, W, 3)``, the size of the output."""
    plan = scene.plan
    frame = plan.edit.frame
    for number, regions in enumerate(plan.passes):
        if number:
            frame = plan.next_canvas(frame, number)
        for region in regions:
            shown = Shown(scene, region, plan.request(region, frame, number, 1))
            fill, window = restore(paint(shown), region.crop), region.crop.box.slices
            if plan.is_extended_by_model:  # up to the line: what is joined there is no paste
                pixels = frame.pixels.copy()
                np.copyto(pixels[window], fill, where=plan.unknown(number, region.crop.box)[..., None] > 0)
                frame = replace(frame, pixels=pixels)
            else:
                frame = paste(frame, fill, region.alpha, region.crop.box)
    return frame.pixels


class _Grader:
    """The worker's own, or one that says nothing, and when each was asked: composing ends there."""

    def __init__(self, clock: Callable[[], float], *, graded: bool) -> None:
        self.told: list[float] = []
        self._clock, self._graded = clock, graded

    def report(self, request: JobRequest, edit: Edit, output: Frame, error: ModelError | None) -> Report:
        self.told.append(self._clock())
        return examiner().report(request, edit, output, error) if self._graded else _NOTHING_SAID

    def brought(self, request: JobRequest, edit: Edit) -> Verdict:
        return examiner().brought(request, edit)


def delivered(scene: Scene, painter: Painter, *, clock: Callable[[], float] = time.perf_counter, graded: bool = True) -> Outcome:
    """The output and the report that a client would get; if it is not to be ``graded``, a report that says nothing."""
    grader = _Grader(clock, graded=graded)
    rounds, number, seconds = Rounds(scene.spec, scene.plan, grader), 0, 0.0
    while rounds.requests:
        regions = scene.plan.passes[number % len(scene.plan.passes)]
        answers = [painter.paint(Shown(scene, region, request)) for region, request in zip(regions, rounds.requests, strict=True)]
        began = clock()
        rounds.take(answers)
        seconds += (grader.told.pop(0) if grader.told else clock()) - began
        number += 1
    while rounds.gives_way:
        rounds.go_on_without_prompt()
    (output,) = rounds.rendered
    return Outcome(np.asarray(Image.open(io.BytesIO(output.data)).convert("RGB"), np.uint8), output.report, seconds)


def _kept(scene: Scene, output: Array) -> bool:
    edit = scene.plan.edit
    (left, top), source = edit.origin, edit.source
    window = slice(top, top + source.height), slice(left, left + source.width)
    keep = edit.alpha[window] == 0
    return bool(np.array_equal(output[window][keep], source.pixels[keep]))
