"""The scheduler of denoising steps, with slots that only count."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_schemas.requests import Priority
from worker.scheduler import HEAD_START_S, Batch, Scheduler, Task


@dataclass(eq=False)
class CountedSlot:
    """A slot that needs so many steps."""

    steps: int
    batch_key: Hashable = "512x512"
    position: int = 0

    @property
    def done(self) -> bool:
        return self.position >= self.steps


def task(
    job_id: str,
    *,
    steps: int = 3,
    key: Hashable = "512x512",
    engine: str = "sd15",
    priority: Priority = Priority.STANDARD,
    admitted_at: float = 0.0,
) -> Task[CountedSlot]:
    return Task(job_id, engine, priority, admitted_at, CountedSlot(steps, key))


def run(batch: Batch[CountedSlot] | None) -> list[str]:
    """Step a batch; the jobs that were in it."""
    assert batch is not None
    for slot in batch.slots:
        slot.position += 1
    return [member.job_id for member in batch.tasks]


def test_nothing_in_flight_gives_no_batch() -> None:
    """Without tasks there is nothing to step and nothing to collect."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 4})
    assert scheduler.next() is None
    assert scheduler.collect() == []
    assert len(scheduler) == 0


def test_a_lone_task_steps_at_once() -> None:
    """A batch never waits to be filled."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 8})
    scheduler.add(task("a"))
    assert run(scheduler.next()) == ["a"]


def test_a_newcomer_joins_between_steps() -> None:
    """A task added while another is half way is in the next batch with it."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 8})
    scheduler.add(task("a"))
    run(scheduler.next())
    scheduler.add(task("b", admitted_at=1.0))
    assert run(scheduler.next()) == ["a", "b"]


def test_a_done_task_is_collected_once_and_leaves_its_place() -> None:
    """A finished task is handed out once, and its place in the batch goes to the next in rank."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 1})
    scheduler.add(task("a", steps=1))
    scheduler.add(task("b", steps=1, admitted_at=1.0))
    assert run(scheduler.next()) == ["a"]
    assert [done.job_id for done in scheduler.collect()] == ["a"]
    assert scheduler.collect() == []
    assert run(scheduler.next()) == ["b"]


def test_a_slot_that_is_done_from_the_start_is_collected_without_a_step() -> None:
    """A slot that failed before its first step is never stepped."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 1})
    scheduler.add(task("a", steps=0))
    assert scheduler.next() is None
    assert [done.job_id for done in scheduler.collect()] == ["a"]


def test_older_jobs_go_first() -> None:
    """Among jobs of one priority the one admitted first has the place, whichever was added first."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 1})
    scheduler.add(task("young", admitted_at=5.0))
    scheduler.add(task("old", admitted_at=1.0))
    assert run(scheduler.next()) == ["old"]


def test_an_interactive_job_takes_the_place_of_a_bulk_job_in_flight() -> None:
    """A full batch gives way to an interactive job at the next step, and the bulk job keeps its position."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 1})
    bulk = task("bulk", priority=Priority.BULK)
    scheduler.add(bulk)
    run(scheduler.next())
    scheduler.add(task("shopper", priority=Priority.INTERACTIVE, admitted_at=10.0, steps=1))
    assert run(scheduler.next()) == ["shopper"]
    scheduler.collect()
    assert bulk.slot.position == 1
    assert run(scheduler.next()) == ["bulk"]


def test_an_old_bulk_job_goes_before_a_new_interactive_one() -> None:
    """A bulk job that has waited longer than the interactive head start is not overtaken any more."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 1})
    scheduler.add(task("bulk", priority=Priority.BULK, admitted_at=0.0))
    scheduler.add(task("shopper", priority=Priority.INTERACTIVE, admitted_at=HEAD_START_S[Priority.INTERACTIVE] + 1))
    assert run(scheduler.next()) == ["bulk"]


def test_a_canceled_job_leaves_with_all_its_slots() -> None:
    """Removing a job returns all its tasks and leaves the others in flight."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 8})
    scheduler.add(task("a"))
    scheduler.add(task("b"))
    scheduler.add(task("a"))
    assert [removed.job_id for removed in scheduler.remove("a")] == ["a", "a"]
    assert scheduler.remove("a") == []
    assert run(scheduler.next()) == ["b"]


def test_a_smaller_budget_holds_from_the_next_batch() -> None:
    """After memory ran out a halved budget is kept at once, though more tasks are in flight."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 4})
    for index in range(4):
        scheduler.add(task(f"job {index}", admitted_at=index))
    assert len(run(scheduler.next())) == 4
    scheduler.set_budget("sd15", 2)
    assert run(scheduler.next()) == ["job 0", "job 1"]
    assert scheduler.room("sd15") == 0


def test_room_is_what_the_engine_can_still_take() -> None:
    """Room counts the tasks of that engine only."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 4, "exemplar": 1})
    scheduler.add(task("a"))
    assert scheduler.room("sd15") == 3
    assert scheduler.room("exemplar") == 1


def test_a_budget_that_never_steps_is_refused() -> None:
    """A budget below one slot is an error, and so is a task of an engine that nobody runs."""
    with pytest.raises(ValueError, match="never step"):
        Scheduler({"sd15": 0})
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 1})
    with pytest.raises(KeyError):
        scheduler.add(task("a", engine="sdxl"))


BUDGETS = {"sd15": 3, "sdxl": 2, "exemplar": 1}
tasks = st.builds(
    task,
    st.sampled_from(["a", "b", "c", "d"]),
    steps=st.integers(1, 6),
    key=st.sampled_from(["512x512", "512x768"]),
    engine=st.sampled_from(sorted(BUDGETS)),
    priority=st.sampled_from(list(Priority)),
    admitted_at=st.floats(0, 300),
)


@given(st.lists(st.one_of(tasks, st.just("step"), st.sampled_from(["a", "b"])), max_size=60))
def test_a_batch_is_one_engine_and_one_key_within_budget(actions: list[Task[CountedSlot] | str]) -> None:
    """Whatever is added, stepped and removed, a batch never mixes engines or keys and never exceeds the budget."""
    scheduler: Scheduler[CountedSlot] = Scheduler(BUDGETS)
    for action in actions:
        if isinstance(action, Task):
            scheduler.add(action)
        elif action != "step":
            scheduler.remove(action)
        elif batch := scheduler.next():
            assert {member.engine for member in batch.tasks} == {batch.engine}
            assert len({member.slot.batch_key for member in batch.tasks}) == 1
            assert 1 <= len(batch.tasks) <= BUDGETS[batch.engine]
            assert len(set(batch.tasks)) == len(batch.tasks)
            run(batch)
            scheduler.collect()


@given(st.lists(tasks, max_size=30))
def test_every_task_is_collected_once_after_exactly_its_steps(added: list[Task[CountedSlot]]) -> None:
    """Without newcomers the loop ends, each task is done once, and none is stepped beyond its last step."""
    scheduler: Scheduler[CountedSlot] = Scheduler(BUDGETS)
    for member in added:
        scheduler.add(member)
    collected: list[Task[CountedSlot]] = []
    while batch := scheduler.next():
        run(batch)
        collected += scheduler.collect()
    assert len(collected) == len(added)
    assert set(collected) == set(added)
    assert all(member.slot.position == member.slot.steps for member in added)


@settings(max_examples=50, deadline=None)
@given(
    tasks,
    st.lists(
        st.tuples(st.sampled_from(sorted(BUDGETS)), st.sampled_from(["512x512", "512x768"]), st.integers(1, 6)), min_size=1, max_size=4
    ),
    st.floats(1, 60),
)
def test_no_task_starves_under_endless_interactive_arrivals(
    victim: Task[CountedSlot], arrivals: list[tuple[str, str, int]], seconds_per_step: float
) -> None:
    """Under more interactive work than can be done, any task waits at most for the steps of those admitted within the head start."""
    head_start_s = {Priority.INTERACTIVE: 12.0, Priority.STANDARD: 3.0, Priority.BULK: 0.0}
    scheduler: Scheduler[CountedSlot] = Scheduler(BUDGETS, head_start_s=head_start_s)
    scheduler.add(victim)
    now, overtaking_steps, turns = victim.admitted_at, 0, 0
    while not victim.slot.done:
        for engine, key, steps in arrivals:
            scheduler.add(task("shopper", steps=steps, key=key, engine=engine, priority=Priority.INTERACTIVE, admitted_at=now))
            if now <= victim.admitted_at + head_start_s[Priority.INTERACTIVE]:
                overtaking_steps += steps
        assert turns < overtaking_steps + victim.slot.steps
        run(scheduler.next())
        scheduler.collect()
        now, turns = now + seconds_per_step, turns + 1
