"""The short form of ``make fuzz``."""

from __future__ import annotations

from pathlib import Path

from .campaign import running


def test_every_answer_is_in_the_document_and_every_accepted_job_ends(tmp_path: Path, tiny_model: Path) -> None:
    """Requests of any kind, drawn from the OpenAPI document: no 5xx, no answer that the document does not describe, no job that never ends."""
    with running(tmp_path, tiny_model) as campaign:
        result = campaign.run(350, 1, examples=5, coverage=False, patience_s=120)
    assert result.told == {}
    assert result.broken == []
    assert result.server_errors == 0
    assert (result.stuck, result.jobs_at_fault) == ([], 0)
    assert result.ends["succeeded"] > 0
    assert set(result.statuses) >= {200, 201, 202, 204, 401, 403, 404, 409, 422, 429}
    assert [operation for operation, answers in result.answers.items() if not answers["2xx"]] == []
