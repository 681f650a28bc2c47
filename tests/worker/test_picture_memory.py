"""Jobs share a worker's memory for pictures, in the order in which they came."""

from __future__ import annotations

from queueing import spec_of

from api_schemas.jobs import InputRef, JobSpec
from api_schemas.requests import job_request
from worker.memory import EXTENDED, FOUND, MASKED, PictureMemory, memory_of


def spec(megapixels: int, **request: object) -> JobSpec:
    """A job with a picture of a thousand columns."""
    image = InputRef(key="k", format="png", width=1000, height=1000 * megapixels, bytes=1, sha256="0")
    changes: dict[str, object] = {"inputs": {"image": image}}
    if request:
        changes["request"] = job_request.validate_python({"image": "image", **request})
    return spec_of().model_copy(update=changes)


def test_a_job_counts_by_its_largest_picture() -> None:
    """That is its input, what it is extended to, or its output; a mask spares looking for the product."""
    assert memory_of(spec(2)) == 2 * 10**6 * FOUND
    assert memory_of(spec(2, operation="replace_background", product_mask="m", background={"color": "#fff"})) == 2 * 10**6 * MASKED
    assert memory_of(spec(2, operation="outpaint", expand={"right": 500})) == 3 * 10**6 * EXTENDED
    assert memory_of(spec(2, operation="remove_background", output={"width": 2000, "height": 4000})) == 8 * 10**6 * FOUND


def test_the_jobs_of_a_tenant_wait_in_the_order_in_which_they_came() -> None:
    """A small one does not pass a large one of its own tenant."""
    memory = PictureMemory[str](80)
    assert memory.enter("first", "a", 50) == ["first"]
    assert memory.enter("large", "a", 40) == []
    assert memory.enter("small", "a", 10) == []
    assert memory.leave("first") == ["large", "small"]
    assert memory.leave("large") == memory.leave("small") == []


def test_an_eighth_is_for_tenants_that_have_none() -> None:
    """One tenant's pictures leave room for the first of another."""
    memory = PictureMemory[str](80)
    assert memory.enter("first", "a", 60) == ["first"]
    assert memory.enter("second", "a", 11) == []
    assert memory.enter("third", "b", 10) == ["third"]
    assert memory.leave("third") == []
    assert memory.leave("first") == ["second"]


def test_those_that_have_none_go_first() -> None:
    """A tenant's first large picture does not wait for all of another's that came before."""
    memory = PictureMemory[str](80)
    assert memory.enter("a1", "a", 80) == ["a1"]
    assert [memory.enter(job, "a", 80) for job in ("a2", "a3")] == [[], []]
    assert memory.enter("b1", "b", 40) == []
    assert memory.leave("a1") == ["b1"]
    assert memory.leave("b1") == ["a2"]


def test_another_tenants_job_passes_one_that_does_not_fit() -> None:
    """Nobody waits for the large pictures of others where there is room."""
    memory = PictureMemory[str](80)
    memory.enter("first", "a", 60)
    assert memory.enter("large", "a", 80) == []
    assert memory.enter("small", "b", 10) == ["small"]


def test_a_job_that_has_waited_long_goes_before_those_who_have_some() -> None:
    """Small ones of others cannot keep a tenant's first large one waiting for ever."""
    memory = PictureMemory[str](80, patience_s=-1.0)
    memory.enter("first", "a", 10)
    assert memory.enter("large", "b", 70) == []
    assert memory.enter("second", "a", 10) == []
    assert memory.leave("first") == ["large", "second"]


def test_a_job_that_needs_more_than_there_is_has_all_of_it() -> None:
    """It waits for the others to leave, and its tenant's next wait for it."""
    memory = PictureMemory[str](80)
    assert memory.enter("small", "a", 10) == ["small"]
    assert memory.enter("huge", "a", 500) == memory.enter("after", "a", 10) == []
    assert memory.leave("small") == ["huge"]
    assert memory.leave("huge") == ["after"]


def test_a_job_that_is_over_waits_no_longer() -> None:
    """It takes no memory, and leaves nothing behind when it is forgotten."""
    memory = PictureMemory[str](80)
    memory.enter("first", "a", 80)
    assert memory.enter("canceled", "a", 80) == memory.enter("after", "a", 80) == []
    assert memory.give_up(lambda job: job == "canceled") == ["canceled"]
    assert memory.leave("canceled") == []
    assert memory.leave("first") == ["after"]
