"""What the reference says beside what is read off the routes: its first page, titles, examples, and the webhooks that the service sends."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from api_schemas.events import PingPayload, WebhookPayload
from api_schemas.requests import JobEvent

_FOLDER = files("service") / "reference"
FIRST_PAGE = (_FOLDER / "first_page.md").read_text(encoding="utf-8")
TAGS = [
    {"name": "jobs", "description": "Make jobs, follow them, and take them back."},
    {"name": "uploads", "description": "Images for later jobs."},
    {"name": "models", "description": "What paints, and what it can."},
    {"name": "webhooks", "description": "Endpoints that are told of every job, and what became of what they were told."},
    {"name": "usage", "description": "What a key was used for."},
    {"name": "health", "description": "For machines that look after machines; without a key."},
]
TITLES = {
    "health_healthz": "Is the process alive?",
    "health_readyz": "Can it take jobs?",
    "health_metrics": "Metrics for Prometheus",
    "jobs_create": "Make a job",
    "jobs_page": "List jobs",
    "jobs_repeat": "Make a job again",
    "jobs_read": "Read a job",
    "jobs_delete": "Delete a job that has ended",
    "jobs_cancel": "Cancel a job",
    "jobs_follow": "Follow a job",
    "uploads_create": "Upload an image",
    "uploads_presign": "Get a URL to upload to",
    "models_page": "List models",
    "webhooks_page": "List endpoints",
    "webhooks_create": "Register an endpoint",
    "webhooks_deliveries": "List deliveries",
    "webhooks_redeliver": "Send a webhook again",
    "webhooks_read": "Read an endpoint",
    "webhooks_change": "Change an endpoint",
    "webhooks_delete": "Delete an endpoint",
    "webhooks_rotate": "Make a new secret",
    "webhooks_ping": "Send a test event",
    "usage_page": "Read the usage of a key",
}
_EVENTS = {
    JobEvent.STARTED: "A job was begun",
    JobEvent.SUCCEEDED: "A job succeeded",
    JobEvent.FAILED: "A job failed",
    JobEvent.CANCELED: "A job was canceled",
    JobEvent.EXPIRED: "A job was too late",
}

_SIGNATURE = {
    "webhook-id": "The same over all attempts.",
    "webhook-timestamp": "Seconds since 1970, of this attempt.",
    "webhook-signature": "`v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`; several, with blanks between them, while an old secret signs too.",
}
WEBHOOK_BODIES = (WebhookPayload, PingPayload)


def _kept() -> dict[str, Any]:
    """Answers as they came from a running service, but for hosts, signatures and secrets."""
    found: dict[str, Any] = json.loads((_FOLDER / "examples.json").read_text(encoding="utf-8"))
    return found


def _page(item: Any) -> dict[str, Any]:
    return {"items": [item], "next": None}


EXAMPLES = _kept()
PROBLEM = EXAMPLES["problem"]
ANSWERS: dict[tuple[str, str], dict[str, Any]] = {
    ("jobs_create", "202"): {"queued": EXAMPLES["queued"]},
    ("jobs_create", "200"): {"finished": EXAMPLES["succeeded"], "dry_run": EXAMPLES["dry_run"]},
    ("jobs_repeat", "202"): {"queued": EXAMPLES["queued"]},
    ("jobs_repeat", "200"): {"finished": EXAMPLES["succeeded"]},
    ("jobs_read", "200"): {"succeeded": EXAMPLES["succeeded"], "canceled": EXAMPLES["canceled"]},
    ("jobs_page", "200"): {"page": _page(EXAMPLES["succeeded"])},
    ("jobs_cancel", "200"): {"canceled": EXAMPLES["canceled"]},
    ("uploads_create", "201"): {"upload": EXAMPLES["upload"]},
    ("uploads_presign", "201"): {"upload": EXAMPLES["presigned"]},
    ("models_page", "200"): {"page": EXAMPLES["models"]},
    ("webhooks_create", "201"): {"endpoint": EXAMPLES["endpoint_with_secret"]},
    ("webhooks_page", "200"): {"page": {"items": [EXAMPLES["endpoint"]]}},
    ("webhooks_read", "200"): {"endpoint": EXAMPLES["endpoint"]},
    ("webhooks_change", "200"): {"endpoint": EXAMPLES["endpoint"]},
    ("webhooks_rotate", "200"): {"endpoint": EXAMPLES["endpoint_with_secret"]},
    ("webhooks_ping", "202"): {"delivery": EXAMPLES["delivery"]},
    ("webhooks_deliveries", "200"): {"page": _page(EXAMPLES["delivery"])},
    ("webhooks_redeliver", "202"): {"delivery": EXAMPLES["delivery"]},
    ("usage_page", "200"): {"page": EXAMPLES["usage"]},
}
"""Examples by operation and status, each with a name."""


def webhooks(ref_template: str) -> dict[str, Any]:
    """The ``webhooks`` of the document: one for each event."""
    job, ping = (ref_template.format(model=model.__name__) for model in WEBHOOK_BODIES)
    succeeded, endpoint = EXAMPLES["succeeded"], EXAMPLES["endpoint"]
    told = {"type": "job.succeeded", "timestamp": succeeded["finished_at"], "sequence": 2, "data": succeeded}
    tested = {"type": "webhook.ping", "timestamp": endpoint["created_at"], "data": {"endpoint": endpoint["id"]}}
    found = {}
    for event, title in _EVENTS.items():
        body = {"$ref": job, "properties": {"type": {"const": event.value}}}
        found[event.value] = _webhook(event.value, title, body, told if event is JobEvent.SUCCEEDED else None)
    return {**found, "webhook.ping": _webhook("webhook.ping", "A test event", {"$ref": ping}, tested)}


def _webhook(event: str, title: str, body: dict[str, Any], example: dict[str, Any] | None) -> dict[str, Any]:
    content = {"schema": body} | ({"example": example} if example else {})
    return {
        "post": {
            "operationId": f"told_{event.replace('.', '_')}",
            "tags": ["webhooks"],
            "summary": title,
            "description": "Signed by Standard Webhooks. Any 2xx within the time limit is success; 410 ends the attempts and disables an endpoint; "
            "all else is tried again, with the same `webhook-id`.",
            "security": [],
            "parameters": [
                {"name": name, "in": "header", "required": True, "description": said, "schema": {"type": "string"}}
                for name, said in _SIGNATURE.items()
            ],
            "requestBody": {"required": True, "content": {"application/json": content}},
            "responses": {"2XX": {"description": "It was taken."}, "410": {"description": "Nobody wants any more."}},
        }
    }
