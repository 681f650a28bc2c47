"""What a job is told of words that its model does not read. The model is scripted; its vocabulary is Studio's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import png
from PIL import Image, ImageFilter
from planning import plan_of, rounds_of

from api_schemas.errors import ChecksNotMet
from api_schemas.jobs import Report, Wording
from api_schemas.models import STUDIO
from api_schemas.requests import Level, job_request
from worker.engines.base import PaintRequest, Reading
from worker.engines.vocabulary import Vocabulary
from worker.engines.weights import EMBEDDED
from worker.rounds import Rounds
from worker.wording import Wordings

SAMPLING = {"steps": 4, "guidance_scale": 5.0, "strength": 1.0, "scheduler": "ddim", "seed": 1, "num_images": 2}
SIDE, RIM = 192, 17
"""Pixels: of the picture, and twice the width of the line, whose outer part fades."""
STRANGE, KNOWN = "kitchen counter next to lemons and a plant", "dark wooden table, teal wall"


def read(prompt: str, *, names_product: bool) -> Reading:
    """As an engine with Studio's vocabulary does, which reads 40 words."""
    vocabulary = Vocabulary.of(EMBEDDED / STUDIO.id)
    assert vocabulary is not None
    stray = vocabulary.stray(prompt, names_product=names_product)
    return Reading(stray.unknown, stray.unheard, " ".join(prompt.split()[40:]) or None)


def begin(prompt: str, **fields: Any) -> Rounds:
    """An inpainting of a grey picture."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[SIDE // 3 : SIDE * 2 // 3, SIDE // 3 : SIDE * 2 // 3] = 255
    request = {"operation": "inpaint", "image": "image", "mask": "mask", "prompt": prompt, **SAMPLING, **fields}
    spec, plan = plan_of(request, STUDIO, {"image": png(np.full((SIDE, SIDE, 3), 90, np.uint8)), "mask": png(mask)})
    return rounds_of(spec, plan, Wordings.of(spec.request, read))


def paint(rounds: Rounds, *, rim: int = 0) -> list[Report]:
    """Paint to the end: what was there, and for the first two seeds a line along the border of the edit, ``rim`` levels lighter."""

    def painted(request: PaintRequest) -> npt.NDArray[np.uint8]:
        inside = np.asarray(Image.fromarray(request.mask).filter(ImageFilter.MinFilter(RIM)))
        line = (request.mask > 0) & (inside == 0) & (request.seed < 3)
        return np.where(line[..., None], request.image + rim, request.image).astype(np.uint8)

    while rounds.requests:
        rounds.take([painted(request) for request in rounds.requests])
    return [output.report for output in rounds.rendered]


def test_words_that_carry_a_prompt_and_mean_nothing_turn_the_verdict() -> None:
    """Each output names the words that were not known, warns of the phrases that are missing, and shows what it shows."""
    for report in paint(begin(STRANGE, negative_prompt="lemons, people")):
        assert report.prompt == Wording(unknown=("kitchen", "lemons"), unheard=("lemons",))
        assert report.negative_prompt is not None
        assert report.negative_prompt.unknown == ("lemons", "people")
        assert report.verdict.level is Level.WARN
        assert report.verdict.reasons == ("the model does not know what the prompt asks for: 'lemons'",)


def test_known_words_are_no_reason() -> None:
    """A prompt of known words passes with nothing to tell, whatever a negative prompt would keep away."""
    for report in paint(begin(KNOWN, negative_prompt="people, text, watermark")):
        assert report.prompt == Wording()
        assert report.verdict.level is Level.PASS


def test_no_seed_is_tried_for_the_sake_of_words() -> None:
    """Attempts are for what another seed may mend: one suffices where the picture itself is good."""
    (first, second) = paint(begin(STRANGE, checks={"max_attempts": 5}))
    assert (first.attempts, second.attempts) == (1, 1)
    assert first.verdict.level is Level.WARN


def test_what_is_wrong_with_the_picture_is_still_tried_again() -> None:
    """A bad picture from a prompt with unknown words is painted again, and the good one keeps the warning of the words alone."""
    for report in paint(begin(STRANGE, checks={"max_attempts": 3}), rim=120):
        assert report.attempts == 2
        assert [reason for reason in report.verdict.reasons if "does not know" not in reason] == []


def test_checks_refuse_a_prompt_that_is_not_heard_before_anything_is_painted() -> None:
    """With ``min_verdict`` pass the job fails as checks_not_met at once, and says why; with warn it is painted."""
    with pytest.raises(ChecksNotMet, match=r"nothing was painted: .*'lemons'") as caught:
        begin(STRANGE, checks={"min_verdict": "pass", "max_attempts": 3})
    assert caught.value.field == "checks.min_verdict"
    assert paint(begin(STRANGE, checks={"min_verdict": "warn"}))[0].verdict.level is Level.WARN
    assert paint(begin(KNOWN, checks={"min_verdict": "pass"}))[0].verdict.level is Level.PASS


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_the_unread_end_of_a_prompt_is_told(field: str) -> None:
    """Where a prompt is longer than the model reads, the report has the rest, and the verdict warns of so many words."""
    long = "teal wall " * 20 + "pink paper"
    (report, _) = paint(begin(**{"prompt": KNOWN, field: long}))
    wording: Wording = getattr(report, field)
    assert wording.unread == "pink paper"
    assert report.verdict.level is Level.WARN
    assert report.verdict.reasons == (f"{field} is longer than the model reads: its last 2 words were left out",)


def test_a_long_phrase_is_cut_in_the_reason() -> None:
    """The report has a phrase of any length whole; the verdict's reason has its beginning."""
    wordings = Wordings(Wording(unheard=("x" * 4000,)))
    assert wordings.reasons == (f"the model does not know what the prompt asks for: '{'x' * 40}…'",)


def test_things_are_named_in_vain_where_nothing_is_there_yet() -> None:
    """A product's name is no loss where the product is in the picture, and is one where ``inpaint`` should paint it."""
    fields = {"operation": "replace_background", "image": "i", "prompt": "coffee cup on a wooden table"}
    assert Wordings.of(job_request.validate_python(fields), read).reasons == ()
    (reason,) = Wordings.of(job_request.validate_python({**fields, "operation": "inpaint", "mask": "m"}), read).reasons
    assert "'coffee cup'" in reason
