"""The stock pipeline behind LitServe, which batches what comes at once; jobs of unequal steps go in buckets. ``python batching.py MODEL DTYPE PORT``."""

from __future__ import annotations

import base64
import sys

import litserve
from stock import Job, load, paint

BATCH, WAIT_S = 8, 0.05


class Painting(litserve.LitAPI):
    """Decodes, batches, paints and encodes."""

    def __init__(self, model: str, dtype: str) -> None:
        super().__init__(max_batch_size=BATCH, batch_timeout=WAIT_S)
        self._model, self._dtype = model, dtype

    def setup(self, _device: str) -> None:
        self._pipeline = load(self._model, self._dtype)

    def decode_request(self, request):  # noqa: ANN001, ANN201 -- LitServe reads an annotation as the schema of the body
        return Job(**{**request, "image": base64.b64decode(request["image"]), "mask": base64.b64decode(request["mask"])})

    def batch(self, inputs: list[Job]) -> list[Job]:
        return inputs

    def predict(self, jobs: list[Job]) -> list[bytes]:
        done: dict[int, bytes] = {}
        for steps in {job.steps for job in jobs}:
            bucket = [place for place, job in enumerate(jobs) if job.steps == steps]
            done |= zip(bucket, paint(self._pipeline, [jobs[place] for place in bucket]), strict=True)
        return [done[place] for place in range(len(jobs))]

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> dict[str, str]:
        return {"image": base64.b64encode(output).decode()}


if __name__ == "__main__":
    model, dtype, port = sys.argv[1:]
    server = litserve.LitServer(Painting(model, dtype), accelerator="cpu", workers_per_device=1, timeout=600)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
