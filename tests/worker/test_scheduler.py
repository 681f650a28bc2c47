"""The scheduler of denoising steps, with slots that only count."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_schemas.requests import Priority
from worker.scheduler import HEAD_START_S, QUIET_STEPS, Batch, Scheduler, Task


@dataclass(eq=False)
class CountedSlot:
    """A slot that needs so many steps."""

    steps: int
    batch_key: Hashable = "512x512"
    cost: float = 1.0
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
    cost: float = 1.0,
) -> Task[CountedSlot]:
    return Task(job_id, engine, priority, admitted_at, CountedSlot(steps, key, cost))


def run(batch: Batch[CountedSlot] | None) -> list[str]:
    """Step a batch; the jobs that were in it."""
    assert batch is not None
    for slot in batch.slots:
        slot.position += 1
    return [member.job_id for member in batch.tasks]


def test_nothing_in_flight_gives_no_batch() -> None:
    """Without tasks there is nothing to step and nothing to collect."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 4.0})
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


def test_a_batch_is_filled_by_cost_not_by_count() -> None:
    """Mates go along in rank order while their costs fit; one that does not fit is passed over for a cheaper one behind it."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 4.0})
    for index, cost in enumerate((2.0, 1.5, 1.0, 0.5)):
        scheduler.add(task(f"job {index}", cost=cost, admitted_at=index))
    batch = scheduler.next()
    assert batch is not None
    assert batch.cost == 4.0
    assert run(batch) == ["job 0", "job 1", "job 3"]


def test_the_first_in_rank_goes_even_above_the_budget() -> None:
    """A slot that alone costs more than the budget is stepped alone, when it is its turn."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 2.0})
    scheduler.add(task("small", steps=1, admitted_at=0.0))
    scheduler.add(task("large", steps=1, cost=9.0, admitted_at=1.0))
    scheduler.add(task("late", steps=1, admitted_at=2.0))
    assert run(scheduler.next()) == ["small", "late"]
    scheduler.collect()
    assert run(scheduler.next()) == ["large"]


def test_costs_that_are_sums_of_fractions_fill_a_budget() -> None:
    """Ten slots that cost a tenth share a call of budget one: rounding takes no place away."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 1.0})
    for index in range(11):
        scheduler.add(task(f"job {index}", cost=0.1, admitted_at=index))
    assert len(run(scheduler.next())) == 10


def test_after_memory_ran_out_half_of_what_was_tried_is_the_budget() -> None:
    """The budget is halved from the batch that failed, at once and again, though more tasks are in flight."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 8.0, "sdxl": 8.0})
    for index in range(4):
        scheduler.add(task(f"job {index}", admitted_at=index))
    batch = scheduler.next()
    assert batch is not None
    assert scheduler.ran_out(batch) == scheduler.budget("sd15") == 2.0
    assert scheduler.budget("sdxl") == 8.0
    smaller = scheduler.next()
    assert smaller is not None
    assert run(smaller) == ["job 0", "job 1"]
    assert scheduler.ran_out(smaller) == 1.0


def test_a_halved_budget_grows_back_after_quiet_steps() -> None:
    """After a long run of steps that had room the budget doubles, up to what was measured and no further; running out starts the run anew."""
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 3.0})
    scheduler.add(task("a"))
    scheduler.add(task("b"))
    batch = scheduler.next()
    assert batch is not None
    scheduler.ran_out(batch)
    for _ in range(QUIET_STEPS - 1):
        assert scheduler.went_well("sd15") == 1.0
    scheduler.ran_out(batch)
    budgets = [scheduler.went_well("sd15") for _ in range(3 * QUIET_STEPS)]
    assert sorted(set(budgets)) == [1.0, 2.0, 3.0]
    assert [budgets.index(2.0), budgets.index(3.0)] == [QUIET_STEPS - 1, 2 * QUIET_STEPS - 1]


def test_a_budget_that_holds_nothing_is_refused() -> None:
    """A budget that is not above 0 is an error, and so is a task of an engine that nobody runs."""
    for budget in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="above 0"):
            Scheduler({"sd15": budget})
    scheduler: Scheduler[CountedSlot] = Scheduler({"sd15": 1.0})
    with pytest.raises(KeyError):
        scheduler.add(task("a", engine="sdxl"))


BUDGETS = {"sd15": 3.0, "sdxl": 2.5, "exemplar": 1.0}
COSTS = (0.5, 1.0, 2.0, 7.0)
tasks = st.builds(
    task,
    st.sampled_from(["a", "b", "c", "d"]),
    steps=st.integers(1, 6),
    key=st.sampled_from(["512x512", "512x768"]),
    engine=st.sampled_from(sorted(BUDGETS)),
    priority=st.sampled_from(list(Priority)),
    admitted_at=st.floats(0, 300),
    cost=st.sampled_from(COSTS),
)


@given(st.lists(st.one_of(tasks, st.just("step"), st.sampled_from(["a", "b"])), max_size=60))
def test_a_batch_is_one_engine_and_one_key_within_budget(actions: list[Task[CountedSlot] | str]) -> None:
    """Whatever is added, stepped and removed, a batch never mixes engines or keys, and above the budget goes only one slot, alone."""
    scheduler: Scheduler[CountedSlot] = Scheduler(BUDGETS)
    for action in actions:
        if isinstance(action, Task):
            scheduler.add(action)
        elif action != "step":
            scheduler.remove(action)
        elif batch := scheduler.next():
            assert {member.engine for member in batch.tasks} == {batch.engine}
            assert len({member.slot.batch_key for member in batch.tasks}) == 1
            assert batch.cost <= BUDGETS[batch.engine] + 1e-6 or len(batch.tasks) == 1
            assert len(set(batch.tasks)) == len(batch.tasks)
            run(batch)
            scheduler.collect()


@given(st.lists(tasks, max_size=30), st.integers(0, 5))
def test_a_task_waits_at_most_for_the_steps_of_those_before_it(added: list[Task[CountedSlot]], failures: int) -> None:
    """Whatever the costs, and though memory runs out now and then, a task is done after as many turns as it and all before it have steps."""
    scheduler: Scheduler[CountedSlot] = Scheduler(BUDGETS)
    for member in added:
        scheduler.add(member)
    ranked = sorted(added, key=lambda member: member.admitted_at - HEAD_START_S[member.priority])
    turns = 0
    while batch := scheduler.next():
        if failures and len(batch.tasks) > 1:  # this turn nothing moves
            failures -= 1
            scheduler.ran_out(batch)
            continue
        run(batch)
        turns += 1
        for done in scheduler.collect():
            rank = done.admitted_at - HEAD_START_S[done.priority]
            before = [other for other in ranked if other.admitted_at - HEAD_START_S[other.priority] <= rank]
            assert turns <= sum(member.slot.steps for member in before)
    assert all(member.slot.done for member in added)


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
        st.tuples(st.sampled_from(sorted(BUDGETS)), st.sampled_from(["512x512", "512x768"]), st.integers(1, 6), st.sampled_from(COSTS)),
        min_size=1,
        max_size=4,
    ),
    st.floats(1, 60),
)
def test_no_task_starves_under_endless_interactive_arrivals(
    victim: Task[CountedSlot], arrivals: list[tuple[str, str, int, float]], seconds_per_step: float
) -> None:
    """Under more interactive work than can be done, any task waits at most for the steps of those admitted within the head start."""
    head_start_s = {Priority.INTERACTIVE: 12.0, Priority.STANDARD: 3.0, Priority.BULK: 0.0}
    scheduler: Scheduler[CountedSlot] = Scheduler(BUDGETS, head_start_s=head_start_s)
    scheduler.add(victim)
    now, overtaking_steps, turns = victim.admitted_at, 0, 0
    while not victim.slot.done:
        for engine, key, steps, cost in arrivals:
            scheduler.add(task("shopper", steps=steps, key=key, engine=engine, priority=Priority.INTERACTIVE, admitted_at=now, cost=cost))
            if now <= victim.admitted_at + head_start_s[Priority.INTERACTIVE]:
                overtaking_steps += steps
        assert turns < overtaking_steps + victim.slot.steps
        run(scheduler.next())
        scheduler.collect()
        now, turns = now + seconds_per_step, turns + 1
