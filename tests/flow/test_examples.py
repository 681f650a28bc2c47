"""The examples of docs/using.md, as they stand."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import Api, box_mask
from standardwebhooks.webhooks import Webhook

from service.keys import new_webhook_secret

PAGE = (Path(__file__).parents[2] / "docs/using.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_work_when_pasted(api: Api, coffee: bytes, tmp_path: Path) -> None:
    """Pasted one after the other into a shell, each ends well, and the jobs that they follow succeed."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 6
    (tmp_path / "photo.png").write_bytes(coffee)
    (tmp_path / "mask.png").write_bytes(box_mask(coffee)[0])
    script = "set -euo pipefail\n" + "\n".join(blocks)
    environment = {
        **os.environ,
        "URL": str(api.http.base_url).rstrip("/"),
        "KEY": api.http.headers["authorization"].removeprefix("Bearer "),
    }
    ran = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr
    assert '"status":"succeeded"' in ran.stdout
    assert ran.stdout.count("event: state") >= 2
    assert "invalid_request" not in ran.stdout


def test_the_receiver_of_the_page_verifies() -> None:
    """The page's function takes what we sign and refuses what was changed."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    page: dict[str, object] = {}
    exec(code, page)
    secret, body = new_webhook_secret(), b'{"type": "job.succeeded"}'
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("evt_1", now, body.decode()),
    }
    receive = page["receive"]
    assert callable(receive)
    assert receive(secret, headers, body) == {"type": "job.succeeded"}
    with pytest.raises(page["WebhookVerificationError"]):  # type: ignore[call-overload]
        receive(secret, headers, body + b" ")
