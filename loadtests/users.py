"""Those who call: a shop with product photos, an eraser, and one who only looks. Importing Locust patches gevent in: import this nowhere else."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from locust import FastHttpUser, between, task

from loadtests.images import blemish_mask, product_photo

TERMINAL = {"succeeded", "failed", "canceled", "expired"}
POLL_S = 0.25
PATIENCE_S = 300.0
"""A job that takes longer counts as failed."""


class JobEndedBadlyError(Exception):
    """A job did not succeed."""


def require_loopback(url: str) -> None:
    """End the run before its first request unless ``url`` is this machine: load on a shared stack is a decision, not a default."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not (host == "localhost" or _is_loopback(host)):
        raise SystemExit(f"load tests run against loopback only (127.0.0.1, ::1 or localhost), not {url or 'nothing: set --host or URL'}")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Caller(FastHttpUser):
    """Someone with a key. Requests are measured by Locust; the time from sending a job to seeing its end is measured as type ``JOB``."""

    abstract = True
    host = os.environ.get("URL")

    def on_start(self) -> None:
        """Take the key from the environment."""
        self._headers = {"Authorization": f"Bearer {os.environ['KEY']}"}  # not the session's: S3 refuses it beside a signature
        self._rng = random.Random()

    def get(self, path: str, name: str) -> Any:
        """JSON of the API; ``None`` where it answered with an error, which Locust has counted."""
        with self.client.get(path, headers=self._headers, name=name, catch_response=True) as answer:
            return answer.json() if answer.ok else None

    def post(self, path: str, **arguments: Any) -> Any:
        """As ``get``."""
        with self.client.post(path, headers=self._headers, name=path, catch_response=True, **arguments) as answer:
            return answer.json() if answer.ok else None

    def finish(self, name: str, **arguments: Any) -> None:
        """Send a job, poll until it ends, and read its outputs as a caller would. A job cut off by the end of the run is not counted."""
        began, job, failure = time.perf_counter(), None, None
        try:
            job = self._complete(**arguments)
        except JobEndedBadlyError as error:
            failure = error
        self.environment.events.request.fire(
            request_type="JOB",
            name=name,
            response_time=(time.perf_counter() - began) * 1000,
            response_length=0,
            exception=failure,
            context={},
        )
        for output in job["outputs"] if job else ():
            self._download(output)

    def _complete(self, **arguments: Any) -> dict[str, Any]:
        job: dict[str, Any] | None = self.post("/v1/jobs", **arguments)
        if job is None:
            raise JobEndedBadlyError("it was not accepted")
        return self._wait_for(job)

    def _wait_for(self, job: dict[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while job["status"] not in TERMINAL:
            if time.monotonic() > deadline:
                raise JobEndedBadlyError(f"it was {job['status']} after {PATIENCE_S:g} s")
            time.sleep(POLL_S)
            job = self.get(f"/v1/jobs/{job['id']}", "/v1/jobs/{id}") or job
        if job["status"] != "succeeded":
            raise JobEndedBadlyError(f"{job['status']}: {(job['error'] or {}).get('code')}")
        return job

    def _download(self, output: dict[str, Any]) -> None:
        with self.client.get(output["url"], name="output (S3)", catch_response=True) as answer:
            if answer.ok and hashlib.sha256(answer.content or b"").hexdigest() != output["sha256"]:
                answer.failure("the bytes are not those that the job tells of")


class Shop(Caller):
    """Puts product photos on a colour: one multipart request for each."""

    weight = 5
    wait_time = between(0.1, 0.5)

    @task
    def replace_background(self) -> None:
        """A photo on plain white or grey."""
        colour = self._rng.choice(["#ffffff", "#f2f2f2"])
        request = {"operation": "replace_background", "image": "file:photo", "background": {"color": colour}}
        files = {"request": (None, json.dumps(request), "application/json"), "photo": ("photo.jpg", product_photo(self._rng), "image/jpeg")}
        self.finish("replace_background", files=files)


class Eraser(Caller):
    """Uploads a photo and a mask first, and erases what is under the mask."""

    weight = 2
    wait_time = between(0.5, 1.5)

    @task
    def erase(self) -> None:
        """Three requests before the job runs."""
        photo = self.post("/v1/uploads", files={"file": ("photo.jpg", product_photo(self._rng), "image/jpeg")})
        mask = self.post("/v1/uploads", files={"file": ("mask.png", blemish_mask(self._rng), "image/png")})
        if photo and mask:
            self.finish("erase", json={"operation": "erase", "image": photo["source"], "mask": mask["source"]})


class Poller(Caller):
    """A back office that keeps looking: lists, single jobs, models."""

    weight = 1
    wait_time = between(0.2, 1.0)

    @task(3)
    def look_at_jobs(self) -> None:
        """A page, and one job of it."""
        page = self.get("/v1/jobs?limit=20", "/v1/jobs?limit=20")
        if page and page["items"]:
            self.get(f"/v1/jobs/{self._rng.choice(page['items'])['id']}", "/v1/jobs/{id}")

    @task
    def look_at_models(self) -> None:
        """What is installed."""
        self.get("/v1/models", "/v1/models")
