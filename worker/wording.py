"""The parts of a job's prompts that its model does not read: known before anything is painted, and the same for every seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from api_schemas.errors import ChecksNotMet
from api_schemas.jobs import Report, Wording
from api_schemas.prompts import shortened
from api_schemas.requests import Checks, CutoutChecks, InpaintRequest, JobRequest, Level
from worker.engines.base import Reading

Read = Callable[..., Reading]
"""``Engine.read`` of the model that paints the job."""
_NAMED = 6
"""Phrases that a reason names; the report has all."""


@dataclass(frozen=True)
class Wordings:
    """Of one job."""

    prompt: Wording | None = None
    negative_prompt: Wording | None = None

    @classmethod
    def of(cls, request: JobRequest, read: Read) -> Wordings:
        """Read the prompts of ``request``."""
        # What is filled by ``inpaint`` is what the prompt names; elsewhere the prompt may name the product, which is there.
        names_product = not isinstance(request, InpaintRequest)

        def wording(prompt: str | None) -> Wording | None:
            if not prompt:
                return None
            found = read(prompt, names_product=names_product)
            return Wording(unknown=found.unknown, unheard=found.unheard, unread=found.unread)

        return cls(wording(getattr(request, "prompt", None)), wording(getattr(request, "negative_prompt", None)))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons why a picture cannot be what was asked for; words that a negative prompt names in vain are none."""
        reasons = [_unheard(self.prompt.unheard)] if self.prompt and self.prompt.unheard else []
        for name, wording in (("prompt", self.prompt), ("negative_prompt", self.negative_prompt)):
            if wording and wording.unread:
                reasons.append(f"{name} is longer than the model reads: its last {len(wording.unread.split())} words were left out")
        return tuple(reasons)

    def refuse(self, checks: Checks | CutoutChecks) -> None:
        """Raise ``ChecksNotMet`` where no picture could be as good as ``checks`` ask: no seed changes what is read."""
        if checks.min_verdict is Level.PASS and self.reasons:
            raise ChecksNotMet(f"nothing was painted: {'; '.join(self.reasons)}", field="checks.min_verdict")

    def judged(self, report: Report) -> Report:
        """Return ``report`` of a picture with what is said of its prompts."""
        verdict, reasons = report.verdict, self.reasons
        if reasons:
            verdict = verdict.doubted(Level.WARN, *reasons)
        return report.model_copy(update={"prompt": self.prompt, "negative_prompt": self.negative_prompt, "verdict": verdict})


def _unheard(phrases: Sequence[str]) -> str:
    named = ", ".join(f"'{shortened(phrase)}'" for phrase in phrases[:_NAMED])
    more = f" and {len(phrases) - _NAMED} more" if len(phrases) > _NAMED else ""
    return f"the model does not know what the prompt asks for: {named}{more}"
