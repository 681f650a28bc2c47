"""The pictures of one job, from its plan to its outputs: what is painted when.

A round is what the engine paints at once. Regions apart are painted in one round, passes of an outpainting in rounds that build on each other, and a
picture that is not good enough begins again with another seed, as often as ``checks.max_attempts`` lets it; the best is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from api_schemas.errors import ChecksNotMet
from api_schemas.jobs import JobSpec, Report
from api_schemas.requests import Checks, Level, RemoveBackgroundRequest, ReplaceBackgroundRequest
from worker.engines.base import PaintRequest, Pixels
from worker.images.backdrop import apply_shadow, contact_shadow
from worker.images.blend import paste
from worker.images.codec import Frame
from worker.images.colour import settle
from worker.images.crop import Region, restore
from worker.intake import Edit, Plan
from worker.outputs import Rendered, encode_output
from worker.wording import Wordings

Measure = Callable[[Edit, Frame], Report]
_ALL_READ = Wordings()
_OPAQUE = 255


@dataclass(eq=False)
class _Picture:
    """One output while it is painted."""

    number: int
    frame: Frame
    fill: Frame | None = None
    """The fill alone so far; kept only where layers were asked for."""
    attempt: int = 1
    passed: int = 0
    """Passes that are done in this attempt."""
    best: Rendered | None = None
    done: bool = False


class Rounds:
    """Not thread-safe: handed from thread to thread with its job."""

    def __init__(self, spec: JobSpec, plan: Plan, measure: Measure, wordings: Wordings = _ALL_READ) -> None:
        """Plan the rounds. Raises ``ChecksNotMet`` where the ``wordings`` of its prompts are worse than the request allows."""
        self._spec = spec
        self._plan = plan
        self._measure = measure
        self._checks = getattr(spec.request, "checks", Checks())
        self._wordings = wordings
        wordings.refuse(self._checks)
        request = spec.request
        # Nothing is painted for remove_background: its one picture is what the plan says.
        self._images = 1 if isinstance(request, RemoveBackgroundRequest) else request.num_images
        self._first_seed = None if isinstance(request, RemoveBackgroundRequest) else request.seed
        self._pictures = [self._begun(_Picture(number, plan.edit.frame)) for number in range(self._images)]
        self.requests: tuple[PaintRequest, ...] = ()
        """To be painted now; empty where nothing is left to paint."""
        self._ask()

    @property
    def later(self) -> int:
        """Requests that will follow those of this round, whatever comes out."""
        return sum(len(regions) for picture in self._unfinished for regions in self._plan.passes[picture.passed + 1 :])

    @property
    def rendered(self) -> tuple[Rendered, ...]:
        """The outputs. Raises ``ChecksNotMet`` where one is worse than the request allows, ``ValueError`` before all is done."""
        outputs = [picture.best for picture in self._pictures if picture.done and picture.best is not None]
        if len(outputs) < len(self._pictures):
            raise ValueError("the job is still being painted")
        least = self._checks.min_verdict
        for output in outputs:
            verdict = output.report.verdict
            if least is not None and verdict.level.rank > least.rank:
                tried = f"the best of {output.report.attempts} is {verdict.level}: {'; '.join(verdict.reasons)}"
                raise ChecksNotMet(tried, field="checks.min_verdict")
        return tuple(outputs)

    def take(self, painted: Sequence[Pixels]) -> None:
        """What the engine painted for ``requests``, in their order (nothing where there are none). ``requests`` is then the next round."""
        pixels, passes = iter(painted), self._plan.passes
        for picture in self._unfinished:
            for region in self._regions(picture):
                self._compose(picture, region, next(pixels))
            picture.passed += 1
            if picture.passed < len(passes):
                picture.frame = self._plan.next_canvas(picture.frame, picture.passed)
            else:
                self._examine(picture)
        self._ask()

    @property
    def _unfinished(self) -> list[_Picture]:
        return [picture for picture in self._pictures if not picture.done]

    def _regions(self, picture: _Picture) -> tuple[Region, ...]:
        """What is painted of it in this round."""
        return self._plan.passes[picture.passed] if self._plan.passes else ()

    def _ask(self) -> None:
        self.requests = tuple(
            self._plan.request(region, picture.frame, picture.passed, self._seed(picture) or 0)
            for picture in self._unfinished
            for region in self._regions(picture)
        )

    def _seed(self, picture: _Picture) -> int | None:
        """Of this attempt: none that another picture or attempt of the job has. ``None`` for a model that takes none."""
        return None if self._first_seed is None else self._first_seed + picture.number + self._images * (picture.attempt - 1)

    def _begun(self, picture: _Picture) -> _Picture:
        picture.frame, picture.passed = self._plan.edit.frame, 0
        if self._spec.request.output.layers:
            shape = picture.frame.pixels.shape
            picture.fill = Frame(np.zeros(shape, np.uint8), np.zeros(shape[:2], np.uint8), picture.frame.icc)
        return picture

    def _compose(self, picture: _Picture, region: Region, pixels: Pixels) -> None:
        request, window = self._spec.request, region.crop.box.slices
        fill = restore(pixels, region.crop)
        if isinstance(request, ReplaceBackgroundRequest):
            if request.shadow is not None and request.background is None:
                fill = apply_shadow(fill, contact_shadow(255 - self._plan.edit.alpha, request.shadow)[window])
        else:
            before, kept = picture.frame.pixels[window], self._plan.unknown(picture.passed, region.crop.box) == 0
            if picture.frame.alpha is not None:  # what is seen through has no colours that the fill could be off
                kept &= picture.frame.alpha[window] == _OPAQUE
            # An extension is open on its far side: what is off at the old border would run all through it.
            fill = settle(fill, before, kept, region.alpha, meet=not self._plan.known)
        picture.frame = paste(picture.frame, fill, region.alpha, region.crop.box)
        if picture.fill is not None and picture.fill.alpha is not None:
            there = region.alpha > 0
            picture.fill.pixels[window][there] = fill[there]
            picture.fill.alpha[window][there] = region.alpha[there]

    def _examine(self, picture: _Picture) -> None:
        edit = self._plan.edit
        report = self._measure(edit, picture.frame)
        if picture.best is None or _badness(report) < _badness(picture.best.report):
            picture.best = encode_output(self._spec, edit, picture.frame, self._seed(picture), report, picture.fill)
        picture.best = picture.best.tried(picture.attempt)
        wanted = self._checks.min_verdict or Level.PASS
        if picture.best.report.verdict.level.rank > wanted.rank and picture.attempt < self._checks.max_attempts:
            picture.attempt += 1
            self._begun(picture)
        else:
            # Not before: another seed would be tried in vain for what is wrong with the words.
            picture.best = replace(picture.best, report=self._wordings.judged(picture.best.report))
            picture.done, picture.fill, picture.frame = True, None, edit.source  # the bytes are kept, not the pixels


def _badness(report: Report) -> tuple[int, float]:
    """Less is better: the verdict, and among equal ones what the product gained, or the seam."""
    growth = report.subject.growth if report.subject else 0.0
    return report.verdict.level.rank, growth + abs((report.seam or 1.0) - 1.0)
