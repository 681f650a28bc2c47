"""A job planned in this process, as a worker plans it: real segmenter, real measures, no queue."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from api_schemas.jobs import InputRef, JobSpec, new_id, utc_now
from api_schemas.models import ModelCard
from api_schemas.requests import job_request
from core.settings import Quality
from worker.images.subject import Segmenter
from worker.intake import Plan, prepare
from worker.report import Examiner
from worker.rounds import Rounds
from worker.wording import Wordings

SEGMENTER = Segmenter(Path(sys.prefix) / "share/outfill/models/u2netp.onnx", most_looks=1)
"""One look: these tests are of what is made of a product, and not of how it is found."""
EXAMINER = Examiner(SEGMENTER, Quality())


def plan_of(request: dict[str, Any], card: ModelCard, inputs: dict[str, bytes]) -> tuple[JobSpec, Plan]:
    """Prepare a job as the worker does, from bytes."""
    ref = InputRef(key="k", format="png", width=1, height=1, bytes=1, sha256="0")
    spec = JobSpec(
        id=new_id("job"),
        tenant="t",
        model=card.id,
        model_revision="1",
        request=job_request.validate_python(request),
        inputs=dict.fromkeys(inputs, ref),
        created_at=utc_now(),
    )
    return spec, prepare(spec, card, inputs.__getitem__, SEGMENTER, max_pixels=10**8)


def rounds_of(spec: JobSpec, plan: Plan, wordings: Wordings | None = None) -> Rounds:
    """Its pictures, none of them painted."""
    return Rounds(spec, plan, EXAMINER, wordings or Wordings())
