"""How fast jobs past their retention are deleted from an object store that is far away: ``make bench-retention``. A table, and build/bench/retention.json.

A real steward of its own deletes 5,000 ended jobs, each with an input, an output and a layer, from Valkey and from SeaweedFS behind a proxy that adds 30 ms to
every request. Its pauses between rounds count.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from api_schemas.jobs import InputRef, JobSpec, JobStatus, Report, StoredOutput, new_id, utc_now
from api_schemas.models import BACKDROP
from api_schemas.requests import job_request
from core.jobs import EXPIRY, JobRecords, Outcome
from core.queue import connect
from core.settings import S3, Redis
from core.storage import Storage, input_key, output_prefix
from scripts.figures import at_least, exit_status, figure, figure_table, write_figures
from scripts.store_proxy import StoreProxy
from service.local import LocalStack, StackOptions

JOBS, DELAY_S, THREADS = 5000, 0.03, 16
LIMITS = {"deletions_per_second": 100.0, "listings_of_what_jobs_have": 0.0}
"""The steward lists uploads once a minute, for those that are too large, and its own copies of keys when it starts; jobs need no listing."""
OF_JOBS = ("inputs", "outputs", "records", "")
REQUEST = {"operation": "replace_background", "image": "image", "background": {"color": "#ffffff"}}
REPORT = Report.model_validate({"preserved": {"max_delta": 0, "changed_pixels": 0, "kept_pixels": 1, "sha256": "0"}, "coverage": 0.5})


def main() -> int:
    """Run, print, write; 1 if a limit does not hold."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        local = stack.enter_context(LocalStack(StackOptions(folder, workers=0), say=lambda _: None))
        proxy = stack.enter_context(StoreProxy(local.s3_port, delay_s=DELAY_S))
        url = f"redis://127.0.0.1:{local.redis_port}/1"  # the stack's own steward has nothing to do there
        own = {"OUTFILL_REDIS__URL": url, "OUTFILL_S3__ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
        environment = {**os.environ, **local.environment(), **own}
        connection = connect(Redis.model_validate({"url": url}))
        records = JobRecords(connection, retention_s=0)
        names = ("endpoint_url", "bucket", "access_key_id", "secret_access_key")
        storage = Storage(S3.model_validate({name: local.environment()[f"OUTFILL_S3__{name.upper()}"] for name in names}))
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda _: make_job(records, storage), range(JOBS)))
        before = len(storage.keys("inputs/")) + len(storage.keys("outputs/"))
        log = stack.enter_context((folder / "retention.log").open("wb"))
        began = time.monotonic()
        steward = subprocess.Popen([sys.executable, "-m", "worker", "steward"], env=environment, stderr=log)
        stack.callback(steward.wait, 60)
        stack.callback(steward.terminate)
        while (left := connection.zcard(EXPIRY)) == JOBS:  # it starts, and takes its lock
            began = time.monotonic()
            time.sleep(0.01)
        while connection.zcard(EXPIRY):
            if time.monotonic() - began > 300:
                raise TimeoutError((folder / "retention.log").read_text()[-2000:])
            time.sleep(0.05)
        took = time.monotonic() - began
        after = len(storage.keys("inputs/")) + len(storage.keys("outputs/"))
        calls, listed = dict(proxy.calls), Counter(proxy.listed)
    figures = {
        "deletions_per_second": at_least(left / took, LIMITS["deletions_per_second"]),
        "listings_of_what_jobs_have": figure(sum(listed[prefix] for prefix in OF_JOBS), LIMITS["listings_of_what_jobs_have"]),
        "objects_left": figure(after, 0),
    }
    Console(width=100).print(figure_table(figures))
    Console(width=100).print(
        {"jobs": JOBS, "objects": before, "seconds": round(took, 2), "added_ms": DELAY_S * 1000, "calls": calls, "listed": dict(listed)}
    )
    write_figures("retention", figures)
    return exit_status(figures)


def make_job(records: JobRecords, storage: Storage) -> None:
    """A job that has succeeded, whose time is over."""
    job_id = new_id("job")
    ref = InputRef(key=input_key("bench", job_id, "image"), format="png", width=1, height=1, bytes=1, sha256="0")
    prefix = output_prefix("bench", job_id, "e")
    output = StoredOutput.model_validate(
        {
            "key": f"{prefix}0.png",
            "layers": {"mask": f"{prefix}0.mask.png"},
            "width": 1,
            "height": 1,
            "format": "png",
            "bytes": 1,
            "sha256": "0",
            "report": REPORT,
        }
    )
    spec = JobSpec(
        id=job_id,
        tenant="bench",
        model=BACKDROP.id,
        model_revision="1",
        request=job_request.validate_python(REQUEST),
        inputs={"image": ref},
        created_at=utc_now(),
    )
    records.create(spec)
    for key in (ref.key, output.key, *output.layers.values()):
        storage.put(key, b"x", "image/png")
    records.accepted(job_id)
    if not records.end_queued(spec, Outcome(JobStatus.SUCCEEDED, outputs=(output,))):
        raise RuntimeError(f"{job_id} did not end")


if __name__ == "__main__":
    sys.exit(main())
