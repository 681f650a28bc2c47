"""A loop around the stock pipeline: no server, no queue. ``python bare.py MODEL DTYPE FOLDER``: paints jobs.json, and prints what it took as JSON."""

from __future__ import annotations

import base64
import json
import resource
import sys
import time
from pathlib import Path

from stock import Job, bare_row_s, load, paint

if __name__ == "__main__":
    model, dtype, folder = sys.argv[1:]
    began = time.perf_counter()
    pipeline = load(model, dtype)
    jobs = [
        Job(**{**entry, "image": base64.b64decode(entry["image"]), "mask": base64.b64decode(entry["mask"])})
        for entry in json.loads((Path(folder) / "jobs.json").read_text())
    ]
    (first,) = paint(pipeline, jobs[:1])
    cold_s = time.perf_counter() - began
    cpu, began, each = time.process_time(), time.perf_counter(), []
    for job in jobs:
        before = time.perf_counter()
        paint(pipeline, [job])
        each.append(time.perf_counter() - before)
    result = {
        "seconds": time.perf_counter() - began,
        "each_s": each,
        "cpu_s": time.process_time() - cpu,
        "cold_s": cold_s,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "row_s": {rows: bare_row_s(pipeline, rows) for rows in (2, 8, 16)},
    }
    print(json.dumps(result))
