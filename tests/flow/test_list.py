"""Listing jobs: the order, the filters, the pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from conftest import Api, box_mask
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from api_schemas.jobs import first_id, made_at, new_id

REPLACE: dict[str, Any] = {"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}


def listed(api: Api, **query: Any) -> list[str]:
    """The ids on one page."""
    answer: httpx.Response = api.http.get("/v1/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["items"]]


def test_jobs_are_found_by_their_metadata(api: Api, coffee: bytes) -> None:
    """key=value shows the jobs that bear it, newest first; several have all to match, and the types are those of JSON."""
    shop = str(ULID())
    made = [api.accept({**REPLACE, "metadata": {"shop": shop, "n": n, "rush": n > 1, "a=b": "c"}}, photo=coffee)["id"] for n in (1, 2, 3)]
    assert listed(api, metadata=f"shop={shop}") == made[::-1]
    assert listed(api, metadata=[f"shop={shop}", "n=2"]) == [made[1]]
    assert listed(api, metadata=[f"shop={shop}", "rush=true"]) == made[:0:-1]
    assert listed(api, metadata=[f"shop={shop}", "n=4"]) == []
    assert listed(api, metadata=[f"shop={shop}", "other=1"]) == []


def test_pages_of_a_filter_follow_one_another(api: Api, coffee: bytes) -> None:
    """With a filter, too, a page holds as many jobs as were asked for, none comes twice, and the last page has no next."""
    tag = str(ULID())
    made = []
    for _ in range(3):
        made.append(api.accept({**REPLACE, "metadata": {"tag": tag}}, photo=coffee)["id"])
        api.accept(REPLACE, photo=coffee)
    query: dict[str, Any] = {"metadata": f"tag={tag}", "limit": 2}
    first = api.http.get("/v1/jobs", params=query).json()
    assert [job["id"] for job in first["items"]] == made[:0:-1]
    last = api.http.get("/v1/jobs", params={**query, "cursor": first["next"]}).json()
    assert ([job["id"] for job in last["items"]], last["next"]) == ([made[0]], None)


def test_jobs_are_found_by_when_they_were_made(api: Api, coffee: bytes) -> None:
    """The range holds its first moment and not its last, to the millisecond of created_at."""
    tag = str(ULID())
    jobs = [api.accept({**REPLACE, "metadata": {"tag": tag}}, photo=coffee) for _ in range(3)]
    ids, times = [job["id"] for job in jobs], [job["created_at"] for job in jobs]
    assert listed(api, metadata=f"tag={tag}", created_from=times[1]) == ids[:0:-1]
    assert listed(api, metadata=f"tag={tag}", created_before=times[1]) == ids[:1]
    assert listed(api, metadata=f"tag={tag}", created_from=times[1], created_before=times[2]) == [ids[1]]
    assert listed(api, created_from=times[1], created_before=times[2], cursor=ids[1]) == []


def test_jobs_are_found_by_status_and_operation(api: Api, coffee: bytes) -> None:
    """Only what has the status and the operation is shown."""
    tag, (mask, _) = str(ULID()), box_mask(coffee)
    metadata = {"tag": tag}
    replaced = api.run({**REPLACE, "metadata": metadata}, photo=coffee)["id"]
    erased = api.run({"operation": "erase", "image": "file:photo", "mask": "file:mask", "metadata": metadata}, photo=coffee, mask=mask)[
        "id"
    ]
    assert listed(api, metadata=f"tag={tag}", operation="erase") == [erased]
    assert listed(api, metadata=f"tag={tag}", status="succeeded") == [erased, replaced]
    assert listed(api, metadata=f"tag={tag}", status="failed") == []


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("cursor", "x", "invalid_request"),
        ("cursor", "job_01JD000000000000000000000U", "invalid_request"),
        ("limit", "0", "invalid_request"),
        ("limit", "101", "invalid_request"),
        ("status", "done", "invalid_request"),
        ("operation", "sharpen", "invalid_request"),
        ("created_from", "yesterday", "invalid_request"),
        ("created_from", "2026-01-01T00:00:00", "invalid_request"),
        ("created_before", "0001-01-01T00:00:00Z", "invalid_request"),
        ("colour", "red", "unknown_field"),
    ],
)
def test_a_bad_query_is_refused(api: Api, name: str, value: str, code: str) -> None:
    """422 with the parameter's name, also for one that is not known."""
    answer = api.http.get("/v1/jobs", params={name: value})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, code, name)


def test_a_metadata_filter_without_a_value_is_refused(api: Api) -> None:
    """What is no key=value is 422 and named by its place."""
    answer = api.http.get("/v1/jobs", params={"metadata": ["a=1", "b"]})
    assert (answer.status_code, answer.json()["field"]) == (422, "metadata.1")


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis adds the zone
def test_an_id_tells_on_which_side_of_a_moment_it_was_made(moment: datetime) -> None:
    """Ids sort as their times do, to the millisecond."""
    first = first_id("job", moment)
    assert moment <= made_at(first) < moment + timedelta(milliseconds=1)


def test_a_new_id_is_of_now() -> None:
    """Between two looks at the clock an id is made between them."""
    before = first_id("job", datetime.now(UTC) - timedelta(milliseconds=1))
    assert before <= new_id("job") < first_id("job", datetime.now(UTC) + timedelta(milliseconds=2))
