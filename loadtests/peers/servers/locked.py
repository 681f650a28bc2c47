"""The stock pipeline behind FastAPI and a lock. ``MODEL=… DTYPE=… uvicorn locked:app``."""

from __future__ import annotations

import os
import threading
from typing import Annotated

from fastapi import FastAPI, File, Form, Response
from stock import Job, load, paint

app = FastAPI()
_pipeline, _lock = load(os.environ["MODEL"], os.environ["DTYPE"]), threading.Lock()


@app.post("/paint")
def paint_one(
    image: Annotated[bytes, File()],
    mask: Annotated[bytes, File()],
    prompt: Annotated[str, Form()],
    steps: Annotated[int, Form()],
    seed: Annotated[int, Form()],
) -> Response:
    """Paint one picture."""
    with _lock:
        (picture,) = paint(_pipeline, [Job(image, mask, prompt, steps, seed)])
    return Response(picture, media_type="image/png")
