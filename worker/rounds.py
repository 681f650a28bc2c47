"""The pictures of one job, from its plan to its outputs: what is painted when.

A round is what the engine paints at once. Regions apart are painted in one round, passes of an outpainting in rounds that build on each other, and a
picture that is not good enough begins again with another seed, as often as ``checks.max_attempts`` lets it; the best is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import structlog

from api_schemas.errors import ChecksNotMet
from api_schemas.jobs import JobSpec, ModelError, Report, Verdict
from api_schemas.models import EXEMPLAR
from api_schemas.requests import Checks, CutoutChecks, JobRequest, Level, RemoveBackgroundRequest, ReplaceBackgroundRequest
from worker.engines.base import Backdrop, PaintRequest, Pixels
from worker.engines.exemplar import fill_all
from worker.images.backdrop import apply_shadow, contact_shadow
from worker.images.blend import paste
from worker.images.checkpoint import checkpoint
from worker.images.codec import Frame
from worker.images.continuity import Continuity
from worker.images.crop import Region, restore
from worker.images.known_error import KnownError, correct
from worker.images.mask import Box
from worker.images.monochrome import in_grey, is_grey
from worker.images.transition import join
from worker.images.transparency import WHITE, off_ground, over_ground
from worker.intake import Edit, Plan
from worker.outputs import Rendered, encode_output
from worker.wording import Wordings

_log = structlog.stdlib.get_logger(__name__)
_ALL_READ = Wordings()
_OPAQUE = 255
_LEVELS_OF_A_SEAM, _STEP_OF_A_SEAM = 20.0, 10.0
"""Levels of a rim or a step, and ΔE2000 of an extension, that are as bad as a seam of 2, or a product of twice its size."""


class Grader(Protocol):
    """The judge of finished pictures."""

    def report(self, request: JobRequest, edit: Edit, output: Frame, error: ModelError | None) -> Report:
        """The measures of ``output``, painted by a model that was off by ``error`` on kept pixels. Raises ``EngineFailed`` if a kept pixel changed."""
        ...

    def brought(self, request: JobRequest, edit: Edit) -> Verdict:
        """The verdict that no output of ``request`` is better than, whatever is painted."""
        ...


@dataclass(eq=False)
class _Picture:
    """One output while it is painted."""

    number: int
    frame: Frame
    fill: Frame | None = None
    """The fill alone so far; kept only where layers were asked for."""
    error: ModelError | None = None
    """The largest of the model's errors so far in this attempt."""
    attempt: int = 1
    passed: int = 0
    """Passes that are done in this attempt."""
    met: tuple[Continuity, ...] = ()
    """Of an extension that a model painted: how it went on with the picture on each side, before it was joined to it."""
    best: Rendered | None = None
    badness: tuple[int, float] = (0, 0.0)
    """Of the best."""
    gave_way: bool = False
    """Whether all attempts failed, and it is to be done without the prompt."""
    done: bool = False


class Rounds:
    """Not thread-safe: handed from thread to thread with its job."""

    def __init__(self, spec: JobSpec, plan: Plan, grader: Grader, wordings: Wordings = _ALL_READ) -> None:
        """Plan the rounds. Raises ``ChecksNotMet`` where the ``wordings`` of its prompts, or the input, allow no verdict that the request does."""
        self._spec = spec
        self._plan = plan
        self._grader = grader
        self._checks: Checks | CutoutChecks = spec.request.checks
        self._wordings = wordings
        wordings.refuse(self._checks)
        _refuse_unsure(self._checks, plan.edit)
        self._brought = grader.brought(spec.request, plan.edit)
        least = self._checks.min_verdict
        if least is not None and self._brought.level.rank > least.rank:
            raise ChecksNotMet(f"nothing was painted: {'; '.join(self._brought.reasons)}", field="checks.min_verdict")
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
        answers, passes = iter(zip(self.requests, painted, strict=True)), self._plan.passes
        for picture in self._unfinished:
            checkpoint()
            for region in self._regions(picture):
                self._compose(picture, region, *next(answers))
            picture.passed += 1
            if picture.passed < len(passes):
                picture.frame = self._plan.next_canvas(picture.frame, picture.passed)
            else:
                self._examine(picture)
        self._ask()

    @property
    def gives_way(self) -> bool:
        """Whether a picture is left of which all attempts failed, and that is to be done without the prompt once nothing else is to be painted."""
        return any(picture.gave_way and not picture.done for picture in self._pictures)

    def go_on_without_prompt(self) -> None:
        """Do one picture without the prompt, in seconds: the better of that and the best attempt is then its output."""
        picture = next(picture for picture in self._pictures if picture.gave_way and not picture.done)
        if picture.best is None:
            raise ValueError("such a picture was painted")
        try:
            picture.best = self._without_prompt(picture, picture.best)
        except Exception:  # what was painted is still there to be delivered, if it is wanted
            checkpoint()
            _log.exception("unprompted_failed", job=self._spec.id)
        picture.done = True

    @property
    def _unfinished(self) -> list[_Picture]:
        return [picture for picture in self._pictures if not picture.done and not picture.gave_way]

    @cached_property
    def _is_grey(self) -> bool:
        """Whether the photo has no colours, as far as it is seen."""
        return is_grey(over_ground(self._plan.edit.source, WHITE))

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
        picture.frame, picture.passed, picture.met, picture.error = self._plan.edit.frame, 0, (), None
        if self._spec.request.output.layers:
            shape = picture.frame.pixels.shape
            picture.fill = Frame(np.zeros(shape, np.uint8), np.zeros(shape[:2], np.uint8), picture.frame.icc)
        return picture

    def _compose(self, picture: _Picture, region: Region, asked: PaintRequest, pixels: Pixels) -> None:
        window = region.crop.box.slices
        if not isinstance(asked.recipe, Backdrop):  # a backdrop is drawn behind the product, not around it: nothing kept is in it
            known = correct(pixels, asked.image, asked.mask == 0)
            pixels, picture.error = known.fill, _larger(picture.error, known)
        fill = restore(pixels, region.crop)
        if self._plan.is_extended_by_model and _opaque(picture.frame, self._plan.known[picture.passed]):
            picture.frame = self._extended(picture, region, fill)
            fill = picture.frame.pixels[window]
        else:
            picture.frame, fill = self._pasted(picture, region, fill)
        if picture.fill is not None and picture.fill.alpha is not None:
            there = region.alpha > 0
            picture.fill.pixels[window][there] = fill[there]
            picture.fill.alpha[window][there] = region.alpha[there]

    def _pasted(self, picture: _Picture, region: Region, fill: Pixels) -> tuple[Frame, Pixels]:
        """The frame with ``fill`` in the region's window, and the fill as it was pasted."""
        request, window = self._spec.request, region.crop.box.slices
        if isinstance(request, ReplaceBackgroundRequest) and request.shadow is not None and request.background is None:
            fill = apply_shadow(fill, contact_shadow(255 - self._plan.edit.alpha, request.shadow)[window])
        cover = None if self._plan.edit.cover is None else self._plan.edit.cover[window]
        if cover is not None:  # a model is shown transparent pixels on white, and paints such
            fill = off_ground(fill, cover, WHITE)
        return paste(picture.frame, fill, region.alpha, region.crop.box, cover), fill

    def _extended(self, picture: _Picture, region: Region, fill: Pixels) -> Frame:
        """The frame with what a model painted around the picture, joined to it. In a photo without colours it has none."""
        known, grown = self._plan.known[picture.passed : picture.passed + 2]
        window, kept = region.crop.box.slices, self._plan.unknown(picture.passed, region.crop.box) == 0
        if self._is_grey:
            fill = in_grey(fill)
        seen = over_ground(picture.frame, WHITE)  # what is hidden is neither shown again nor looked at
        seen = seen.copy() if seen is picture.frame.pixels else seen
        np.copyto(seen[window], fill, where=~kept[..., None])
        picture.met += join(seen[grown.slices], known.moved(-grown.left, -grown.top))
        seen[known.slices] = picture.frame.pixels[known.slices]
        return Frame(seen, picture.frame.alpha, picture.frame.icc)

    def _examine(self, picture: _Picture) -> None:
        edit = self._plan.edit
        report = _judged(self._grader.report(self._spec.request, edit, picture.frame, picture.error), picture.met)
        badness = _badness(report, picture.met)
        if picture.best is None or badness < picture.badness:
            picture.badness = badness
            picture.best = encode_output(self._spec, edit, picture.frame, self._seed(picture), report, picture.fill)
        picture.best = picture.best.tried(picture.attempt)
        # For what the input brings no other seed is tried.
        wanted = max(self._checks.min_verdict or Level.PASS, self._brought.level, key=lambda level: level.rank)
        if picture.best.report.verdict.level.rank > wanted.rank and picture.attempt < self._checks.max_attempts:
            picture.attempt += 1
            self._begun(picture)
        else:
            # Not before: another seed would be tried in vain for what is wrong with the words.
            picture.best = replace(picture.best, report=self._wordings.judged(picture.best.report))
            failed = picture.best.report.verdict.level is Level.FAIL
            picture.gave_way = failed and self._checks.min_verdict is None and self._plan.without_prompt is not None
            picture.done = not picture.gave_way
            picture.fill, picture.frame = None, edit.source  # the bytes are kept, not the pixels

    def _without_prompt(self, picture: _Picture, best: Rendered) -> Rendered:
        """The picture without the prompt, or ``best`` where that is a failure too."""
        if self._plan.without_prompt is None:
            return best
        failed = best.report
        seed = (self._first_seed or 0) + picture.number
        update = {
            "checks": type(self._checks)(),
            "num_images": 1,
            "seed": seed,
            **({"prompt": None} if hasattr(self._spec.request, "prompt") else {}),
        }
        spec = self._spec.model_copy(update={"request": self._spec.request.model_copy(update=update)})
        rounds = Rounds(spec, self._plan.without_prompt(), self._grader)
        while rounds.requests:
            rounds.take(fill_all(rounds.requests))
        (other,) = rounds.rendered
        verdict = other.report.verdict
        if verdict.level is Level.FAIL:
            return best
        level = max(verdict.level, Level.WARN, key=lambda level: level.rank)
        tried = f"no attempt of {self._spec.model} was good enough ({'; '.join(failed.verdict.reasons)})"
        reason = f"{tried}: {EXEMPLAR.id} did it instead, which goes on with the photo and reads no prompt"
        report = {
            "verdict": Verdict(level=level, reasons=(reason, *verdict.reasons)),
            "painted_by": EXEMPLAR.id,
            "attempts": failed.attempts,
            "prompt": failed.prompt,
            "negative_prompt": failed.negative_prompt,
        }
        return replace(other, report=other.report.model_copy(update=report))


def _larger(error: ModelError | None, known: KnownError) -> ModelError | None:
    """``error``, or that of another region where more of it is left."""
    if known.painted is None or known.left is None or (error is not None and error.corrected >= known.left):
        return error
    return ModelError(painted=known.painted, corrected=known.left)


def _opaque(frame: Frame, box: Box) -> bool:
    """Whether nothing along the border of ``box`` is seen through: what is clear is not to be carried on."""
    if frame.alpha is None:
        return True
    alpha = frame.alpha[box.slices]
    return bool(min(alpha[0].min(), alpha[-1].min(), alpha[:, 0].min(), alpha[:, -1].min()) == _OPAQUE)


def _judged(report: Report, met: tuple[Continuity, ...]) -> Report:
    """``report`` with what is to be said of an extension before it was joined to its picture: of its worst side."""
    if not met:
        return report
    worst = max(met, key=lambda side: (side.level.rank, side.step))
    if worst.level is Level.PASS:
        return report
    return report.model_copy(update={"verdict": report.verdict.doubted(worst.level, worst.reason)})


def _badness(report: Report, met: tuple[Continuity, ...]) -> tuple[int, float]:
    """Less is better: the verdict, and among equal ones what the product gained, or the seam, or how far off an extension was."""
    growth = (report.subject.growth if report.subject else None) or 0.0
    off = max((side.step for side in met), default=0.0) / _STEP_OF_A_SEAM
    off += ((report.rim or 0.0) + (report.step or 0.0)) / _LEVELS_OF_A_SEAM
    return report.verdict.level.rank, growth + abs((report.seam or 1.0) - 1.0) + off


def _refuse_unsure(checks: Checks | CutoutChecks, edit: Edit) -> None:
    """Raise ``ChecksNotMet`` where the product was found with less confidence than ``checks`` ask for."""
    least: float | None = getattr(checks, "min_confidence", None)
    if least is not None and edit.confidence is not None and edit.confidence < least:
        raise ChecksNotMet(
            f"nothing was painted: the product was found with a confidence of {edit.confidence:.2f}", field="checks.min_confidence"
        )
