"""The least that accepting a job can be: a FastAPI route that stores the same bytes in S3 and enqueues with plain RQ. For ``bench_accept``.

``uvicorn scripts.bare_route:create_app --factory``. Nothing is checked, recorded, made durable or known of the caller.
"""

from __future__ import annotations

import redis
from fastapi import FastAPI, UploadFile
from rq import Queue
from ulid import ULID

from core.settings import Settings
from core.storage import Storage


def create_app() -> FastAPI:
    """The application."""
    settings = Settings()
    storage = Storage(settings.s3)
    queue = Queue("bare", connection=redis.Redis.from_url(settings.redis.url.get_secret_value()))
    app = FastAPI()

    @app.post("/jobs", status_code=202)
    def create(photo: UploadFile) -> dict[str, str]:
        key = f"health/bare/{ULID()}"
        storage.put(key, photo.file.read(), "image/png")
        return {"id": queue.enqueue("outfill.bare", key, result_ttl=0).id}

    return app
