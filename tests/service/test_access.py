"""Keys: made, looked up, scoped, limited, revoked, and told of in the audit log. Against the running service."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from inspect import signature
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from conftest import Api, box_mask, eventually
from typer.testing import CliRunner

import core
from api_schemas.access import Scope
from api_schemas.jobs import utc_now
from core.jobs import key_record_key
from core.settings import Limits, Settings, Webhooks
from service.app import create_app
from service.cli import app as outfill
from service.keys import KeyRecord, KeyRing, NewKey, hash_key
from service.local import LocalStack
from service.tenant_commands import set_

REPLACE: dict[str, Any] = {"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}
Called = Callable[..., tuple[httpx.Client, KeyRecord]]


@pytest.fixture
def ring(settings: Settings, live_redis: redis.Redis) -> KeyRing:
    """The keys of the running service."""
    return KeyRing(live_redis, settings)


@pytest.fixture
def called(ring: KeyRing, stack: LocalStack) -> Iterator[Called]:
    """Makes a key as asked, and a caller that has it."""
    clients: list[httpx.Client] = []

    def make(**wanted: Any) -> tuple[httpx.Client, KeyRecord]:
        key, record = ring.create(NewKey(**{"tenant": "access", "name": "test", **wanted}))
        clients.append(httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {key}"}, timeout=70))
        return clients[-1], record

    yield make
    for client in clients:
        client.close()


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def log_lines(stack: LocalStack, event: str) -> list[dict[str, Any]]:
    """What the API logged under a name."""
    lines = stack.parts["api"].log.read_text().splitlines()
    return [found for line in lines if line.startswith("{") and (found := json.loads(line))["event"] == event]


def test_a_created_key_opens_the_service_at_once_and_a_revoked_one_never_again(called: Called, ring: KeyRing) -> None:
    """A key works from its making to its revocation, without a restart, and its tenant's jobs are its own."""
    client, record = called()
    assert client.get("/v1/jobs").json() == {"items": [], "next": None}
    assert ring.revoke(record.id)
    assert code(client.get("/v1/jobs")) == (401, "unauthenticated")
    assert "revoked" in client.get("/v1/jobs").json()["detail"]


def test_an_expired_key_is_refused(called: Called) -> None:
    """A key is good until its expiry and not after it."""
    good, _ = called(expires_at=utc_now() + timedelta(hours=1))
    late, _ = called(expires_at=utc_now() - timedelta(seconds=1))
    assert good.get("/v1/jobs").status_code == 200
    assert "expired" in late.get("/v1/jobs").json()["detail"]


def test_only_the_hash_of_a_key_is_kept(called: Called, live_redis: redis.Redis, ring: KeyRing) -> None:
    """Redis holds the SHA-256 of a key and its first letters, and nothing from which the key could be told."""
    client, record = called()
    key = client.headers["authorization"].removeprefix("Bearer ")
    fields = live_redis.hgetall(key_record_key(hash_key(key)))
    assert key.startswith(record.prefix)
    assert len(key) - len(record.prefix) > 30
    assert key not in str(fields)
    assert key not in repr(ring.records())


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/jobs", Scope.JOBS_WRITE),
        ("GET", "/v1/jobs", Scope.JOBS_READ),
        ("POST", "/v1/uploads/presigned", Scope.UPLOADS_WRITE),
        ("GET", "/v1/models", Scope.MODELS_READ),
        ("GET", "/v1/usage", Scope.USAGE_READ),
    ],
)
def test_a_key_without_the_scope_is_told_which_it_lacks(called: Called, method: str, path: str, scope: Scope) -> None:
    """403 names the scope; with that scope alone the route answers."""
    lacking, _ = called(scopes=tuple(other for other in Scope if other is not scope))
    answer = lacking.request(method, path)
    assert code(answer) == (403, "missing_scope")
    assert scope in answer.json()["detail"]
    assert f'scope="{scope}"' in answer.headers["www-authenticate"]
    having, _ = called(scopes=(scope,))
    assert having.request(method, path).status_code not in (401, 403)


def test_every_route_demands_a_scope(called: Called) -> None:
    """No route under /v1 answers a key that has no scope."""
    client, _ = called(scopes=())
    operations = client.get("/openapi.json").json()["paths"].items()
    asked = [(method, path) for path, methods in operations if path.startswith("/v1/") for method in methods]
    assert len(asked) > 8
    answers = {f"{method} {path}": code(client.request(method, path.replace("{job_id}", "job_x"))) for method, path in asked}
    assert set(answers.values()) == {(403, "missing_scope")}, answers


def test_a_key_over_its_rate_is_told_when_to_come_again(called: Called) -> None:
    """Each answer tells what is left; the request over the limit is 429 with Retry-After; another key is not held up."""
    client, _ = called(requests_per_minute=3)
    answers = [client.get("/v1/jobs") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [re.findall(r"r=(\d+)", answer.headers["ratelimit"]) for answer in answers] == [["2"], ["1"], ["0"], ["0"]]
    assert answers[3].headers["ratelimit-policy"] == '"requests";q=3;w=60'
    assert 1 <= int(answers[3].headers["retry-after"]) <= 20
    assert answers[3].json()["code"] == "rate_limited"
    other, _ = called()
    assert other.get("/v1/jobs").status_code == 200


def test_a_key_without_a_limit_of_its_own_has_that_of_the_settings(called: Called, api: Api, settings: Settings) -> None:
    """The default is told in RateLimit-Policy; 0 is no limit and is not told."""
    client, _ = called()
    assert client.get("/v1/jobs").headers["ratelimit-policy"] == f'"requests";q={settings.limits.requests_per_minute};w=60'
    unlimited, _ = called(requests_per_minute=0)
    assert "ratelimit" not in unlimited.get("/v1/jobs").headers
    assert "ratelimit" not in api.http.get("/v1/jobs").headers  # the key of `outfill up`


def test_a_keys_use_is_logged_and_a_failed_attempt_without_the_key(called: Called, stack: LocalStack) -> None:
    """The audit log has who did what with which result; of a key that opens nothing it has where it came from, and never the key."""
    client, record = called()
    client.get("/v1/models")
    wrong = "of_" + "x" * 40
    httpx.get(f"{stack.url}/v1/jobs", headers={"Authorization": f"Bearer {wrong}"})
    (used,) = eventually(lambda: [line for line in log_lines(stack, "key_used") if line["key"] == record.id])
    assert (used["tenant"], used["method"], used["path"], used["status"]) == ("access", "GET", "/v1/models", 200)
    refused = eventually(lambda: log_lines(stack, "key_refused"))[-1]
    assert (refused["why"], refused["client"], refused["path"]) == ("unknown", "127.0.0.1", "/v1/jobs")
    text = stack.parts["api"].log.read_text()
    assert wrong not in text
    assert client.headers["authorization"].removeprefix("Bearer ") not in text


def test_usage_counts_requests_jobs_images_and_megapixels(called: Called, coffee: bytes) -> None:
    """What a key did today is what GET /v1/usage says, and a refused job is none."""
    client, _ = called()
    job = Api(client).run(REPLACE, photo=coffee)
    assert Api(client).post({**REPLACE, "nonsense": 1}, photo=coffee).status_code == 422
    (day,) = client.get("/v1/usage").json()["items"]
    output = job["outputs"][0]
    assert day["day"] == f"{utc_now():%Y-%m-%d}"
    assert (day["jobs"], day["images"], day["megapixels"]) == (1, 1, output["width"] * output["height"] / 1e6)
    assert day["requests"] >= 4
    assert client.get("/v1/usage", params={"until": "2020-01-02", "since": "2020-01-03"}).json()["field"] == "since"


def test_the_command_line_makes_lists_and_revokes_keys(settings: Settings, stack: LocalStack) -> None:
    """`outfill keys create` prints a key that works, `list` shows it by its first letters, `usage` what it did, `revoke` ends it."""
    run = CliRunner()
    made = run.invoke(outfill, ["keys", "create", "--tenant", "cli", "--name", "shop till", "--scope", "models:read"])
    key_id, key = re.findall(r"(key_\w{26}|of_\S{40})", made.output)
    headers = {"Authorization": f"Bearer {key}"}
    assert httpx.get(f"{stack.url}/v1/models", headers=headers).status_code == 200
    assert httpx.get(f"{stack.url}/v1/jobs", headers=headers).status_code == 403
    listed = next(line for line in run.invoke(outfill, ["keys", "list"]).output.splitlines() if key_id in line)
    assert all(part in listed for part in (key[:11], "cli", "shop till", "models:read", "good"))
    assert key not in listed
    assert re.search(r"\d{4}-\d\d-\d\d +2 +0", run.invoke(outfill, ["keys", "usage", key_id]).output)
    assert run.invoke(outfill, ["keys", "revoke", key_id]).exit_code == 0
    assert httpx.get(f"{stack.url}/v1/models", headers=headers).status_code == 401
    assert "revoked" in run.invoke(outfill, ["keys", "list"]).output
    assert run.invoke(outfill, ["keys", "revoke", "key_nope"]).exit_code == 1
    assert run.invoke(outfill, ["keys", "create", "--tenant", "No Such"]).exit_code == 2
    assert run.invoke(outfill, ["keys", "create", "--tenant", "cli", "--expires-in-days", "nan"]).exit_code == 2
    assert run.invoke(outfill, ["keys", "create", "--tenant", "cli", "--expires-in-days", "1e9"]).exit_code == 2
    assert run.invoke(outfill, ["keys", "usage", "key_nope"]).exit_code == 1


def test_the_command_line_resets_only_what_it_knows(settings: Settings) -> None:
    """A limit may be spelt as its option is; anything else, a tenant's secret too, is refused."""
    run = CliRunner()
    run.invoke(outfill, ["tenants", "set", "--tenant", "cli", "--queued-jobs", "5"])
    assert run.invoke(outfill, ["tenants", "reset", "--tenant", "cli", "webhook_secret"]).exit_code == 2
    assert "queued_jobs  5" in run.invoke(outfill, ["tenants", "show", "--tenant", "cli"]).output
    assert run.invoke(outfill, ["tenants", "reset", "--tenant", "cli", "queued-jobs"]).exit_code == 0
    assert "queued_jobs" not in run.invoke(outfill, ["tenants", "show", "--tenant", "cli"]).output


def test_the_command_line_says_which_redis_does_not_answer() -> None:
    """One line, and no trace of ours."""
    command = [sys.executable, "-m", "service.cli", "keys", "list"]
    ran = subprocess.run(
        command, env={**os.environ, "OUTFILL_REDIS__URL": "redis://:hunter2@127.0.0.1:1/0"}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "Redis at 127.0.0.1:1/0: unavailable: it does not answer" in ran.stdout
    assert "Traceback" not in ran.stdout + ran.stderr
    assert "hunter2" not in ran.stdout + ran.stderr


def test_a_key_that_only_writes_hears_nothing_of_other_keys_jobs(called: Called, coffee: bytes) -> None:
    """Their idempotency keys are not its own, and what a repetition would show, or an endpoint be told, wants leave to read."""
    reader, _ = called()
    writer, _ = called(scopes=(Scope.JOBS_WRITE, Scope.WEBHOOKS_WRITE))
    request, idempotency = {"data": {"request": json.dumps(REPLACE)}, "files": {"photo": coffee}}, {"Idempotency-Key": "the-same"}
    mine = reader.post("/v1/jobs", headers=idempotency, **request)  # type: ignore[arg-type]  # of httpx's many parameters
    other = writer.post("/v1/jobs", headers=idempotency, **request)  # type: ignore[arg-type]
    assert (mine.status_code, other.status_code) == (202, 202)
    assert mine.json()["id"] != other.json()["id"]
    assert code(writer.post(f"/v1/jobs/{mine.json()['id']}/repeat")) == (403, "missing_scope")
    assert code(writer.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/"})) == (403, "missing_scope")
    eventually(lambda: {reader.get(f"/v1/jobs/{job.json()['id']}").json()["status"] for job in (mine, other)} == {"succeeded"})


def test_who_cancels_without_leave_to_read_is_told_the_state_alone(called: Called, coffee: bytes) -> None:
    """Id, status and times, the first time and every other; a key that may read is told the whole job."""
    owner, _ = called()
    writer, _ = called(scopes=(Scope.JOBS_WRITE,))
    request = {**REPLACE, "priority": "bulk", "metadata": {"order": "s3cr3t"}}
    jobs = [owner.post("/v1/jobs", data={"request": json.dumps(request)}, files={"photo": coffee}).json() for _ in range(8)]
    answers = [writer.post(job["urls"]["cancel"]) for job in reversed(jobs)]
    canceled = [answer for answer in answers if answer.status_code == 200]
    assert canceled  # the last of eight waits for the first
    for answer in canceled:
        again = writer.post(f"/v1/jobs/{answer.json()['id']}/cancel")
        for told in (answer.json(), again.json()):
            assert set(told) == {"id", "status", "created_at", "started_at", "finished_at"}
    assert all(b"s3cr3t" not in answer.content for answer in answers)
    assert owner.post(f"/v1/jobs/{canceled[0].json()['id']}/cancel").json()["metadata"] == {"order": "s3cr3t"}


def test_who_changes_an_endpoint_may_read_it(called: Called) -> None:
    """The answers to a change, a rotation, a ping and a redelivery show what another key registered, and so demand leave to read it; deleting shows nothing."""
    owner, _ = called()
    writer, _ = called(scopes=(Scope.JOBS_READ, Scope.WEBHOOKS_WRITE))
    made = owner.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/s3cr3t", "events": ["job.failed"]}).json()
    path = f"/v1/webhooks/{made['id']}"
    for method, below in (("PATCH", ""), ("POST", "/rotate"), ("POST", "/ping")):
        assert code(writer.request(method, path + below, json={} if below != "/ping" else None)) == (403, "missing_scope")
    assert code(writer.post("/v1/webhooks/deliveries/evt_01JD0000000000000000000000/redeliver")) == (403, "missing_scope")
    assert writer.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/", "events": ["job.failed"]}).status_code == 201
    assert writer.delete(path).status_code == 204


def test_a_key_that_is_revoked_hears_no_more(called: Called, ring: KeyRing, coffee: bytes) -> None:
    """An event stream that is open ends at the next event or heartbeat, and does not tell it."""
    client, record = called()
    other, _ = called()
    request = {
        "operation": "inpaint",
        "image": "file:photo",
        "mask": "file:mask",
        "model": "tiny",
        "prompt": "x",
        "steps": 150,
        "num_images": 8,
    }
    files = {"photo": coffee, "mask": box_mask(coffee)[0]}
    job = client.post("/v1/jobs", data={"request": json.dumps(request)}, files=files).json()
    with client.stream("GET", job["urls"]["events"]) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert ring.revoke(record.id)
        other.post(job["urls"]["cancel"]).raise_for_status()
        told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert "canceled" not in {state.get("status") for state in told}
    eventually(lambda: other.get(job["urls"]["self"]).json()["status"] == "canceled")
    assert not ring.is_good(record.id)


def test_errors_tell_nothing_of_the_inside(api: Api, settings: Settings) -> None:
    """A fault of ours is a 500 that says so, and not where or why."""
    from fastapi.testclient import TestClient

    app = create_app(settings)

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("the password is hunter2")

    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert not re.search(r"hunter2|Traceback|RuntimeError|\.py", answer.text)


def test_every_bound_of_a_tenant_can_be_set() -> None:
    """What a script reads of a tenant's own numbers is an option of `outfill tenants set`, and has its default in the settings."""
    scripts = "".join(path.read_text() for path in (Path(core.__file__).parent / "lua").glob("*.lua"))
    named = set(re.findall(r"bound\([^,()]+, '(\w+)'", scripts))
    assert named >= {"queued_jobs", "uploads", "pings", "deliveries", "reservations", "leaving_bytes", "stored_bytes"}
    bounds = named | {f"{ledger}_{of}" for ledger in ("ended", "canceled") for of in ("jobs", "bytes")}
    assert bounds <= set(signature(set_).parameters)
    assert bounds <= {*Limits.model_fields, *Webhooks.model_fields}
