"""Several API processes behind one address."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
from conftest import eventually

from service.local import API_COMMAND, LocalStack, free_ports


def test_no_metrics_are_told_where_each_scrape_would_count_another_process(stack: LocalStack, tmp_path: Path) -> None:
    """`uvicorn --workers 2` serves requests; `/metrics` is 503 with the reason, which the log has too, and no wrong figure."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", *API_COMMAND, "--port", str(port), "--workers", "2", "--no-access-log"]
    url, token, log = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {stack.api_key}"}, tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen(command, env={**os.environ, **stack.environment()}, stderr=output) as process:
        try:
            eventually(lambda: log.read_text().count("Application startup complete") == 2)
            assert httpx.get(f"{url}/readyz").status_code == 200
            answer = httpx.get(f"{url}/metrics", headers=token)
        finally:
            process.terminate()
            process.wait(30)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "several processes share this address" in answer.json()["detail"]
    assert log.read_text().count("no_metrics") == 2


def test_one_process_tells_its_metrics(stack: LocalStack) -> None:
    """As `outfill up` and the containers start it."""
    answer = httpx.get(f"{stack.url}/metrics", headers={"Authorization": f"Bearer {stack.api_key}"})
    assert answer.status_code == 200
    assert "outfill_http_requests_total" in answer.text
