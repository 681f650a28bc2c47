"""A run of GPU facts: every item that was begun is answered, whatever becomes of it, and nothing is asked twice."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.gpu_facts.__main__ import main
from scripts.gpu_facts.answers import Answers, AnswersError
from scripts.gpu_facts.catalogue import HALVES, ITEMS, chosen
from scripts.gpu_facts.findings import Deadline, Findings, Refused
from scripts.gpu_facts.items.regional import WHOLE_S
from scripts.gpu_facts.runner import GO_ON, Item, Runner
from scripts.gpu_facts.supervisor import supervise

HEADER = {"card": "NVIDIA H100", "torch": "2.13", "commit": "abc", "rehearsal": False}


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Bare:
    """A stage without a device."""

    def __init__(self, *, rehearsal: bool = False) -> None:
        self.rehearsal = rehearsal
        self.released = 0

    def release(self) -> None:
        self.released += 1


Run = Callable[[Bare, Findings], None]


def item_of(number: int, run: Run, *, seconds: float = 10.0) -> Item[Bare]:
    return Item(number, f"item {number}", seconds, "nothing", run)


def adds(name: str = "step_ms", value: float = 1.0) -> Run:
    return lambda _stage, findings: findings.add(name, value)


def raises(error: BaseException) -> Run:
    def run(_stage: Bare, _findings: Findings) -> None:
        raise error

    return run


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "facts.jsonl"


def run(path: Path, clock: Clock, *items: Item[Bare], **options: Any) -> tuple[int, dict[int, dict[str, Any]]]:
    """One process; its status, and what the file then answers."""
    answers = Answers(path)
    answers.open(HEADER)
    stage = options.pop("stage", Bare())
    status = Runner(stage, answers, clock=clock, **options).run(items)
    return status, Answers(path).by_item


def test_the_time_of_an_item_is_looked_at_between_its_figures(path: Path, clock: Clock) -> None:
    """An item that runs over is stopped at its next figure, and answered with those that it has; the next one is run."""

    def slow(_stage: Bare, findings: Findings) -> None:
        for number in range(100):
            clock.advance(8)
            findings.add(f"turn_{number}_ms", number)

    status, answers = run(path, clock, item_of(1, slow), item_of(2, adds()))
    assert (status, answers[1]["answer"], answers[2]["answer"]) == (0, "deadline", "measured")
    assert answers[1]["figures"] == {"turn_0_ms": 0, "turn_1_ms": 1, "turn_2_ms": 2}
    assert answers[1]["seconds"] == 24


def test_an_item_that_does_not_come_back_loses_its_process_not_its_figures(path: Path, clock: Clock) -> None:
    """The watchdog writes what was found and ends the process with the status that asks for another one."""
    ended = threading.Event()
    statuses: list[int] = []

    def end(status: int) -> None:
        statuses.append(status)
        ended.set()

    def hangs(_stage: Bare, findings: Findings) -> None:
        findings.add("step_ms", 3.0)
        ended.wait()

    _, answers = run(path, clock, item_of(4, hangs, seconds=10), end=end, grace_s=0.01 - 20)
    assert statuses == [GO_ON]
    assert answers[4]["answer"] == "deadline"
    assert answers[4]["figures"] == {"step_ms": 3.0}


def test_a_second_run_goes_on_where_the_first_ended(path: Path, clock: Clock) -> None:
    """Items that have an answer are not run again; one that was cut off is."""
    answers = Answers(path)
    answers.open(HEADER)
    answers.begin(1, "item 1")
    answers.answer(1, "item 1", "measured", {"figures": {"step_ms": 7.0}})
    answers.begin(2, "item 2")  # and the process was killed
    _, found = run(path, clock, item_of(1, raises(AssertionError("again"))), item_of(2, adds()))
    assert found[1]["figures"] == {"step_ms": 7.0}
    assert found[2]["answer"] == "measured"


def test_an_item_that_ended_two_processes_is_not_begun_a_third_time(path: Path, clock: Clock) -> None:
    """An item that ended its process twice is answered as failed, and the next item is run."""
    for _ in range(2):
        answers = Answers(path)
        answers.open(HEADER)
        assert answers.begin(1, "item 1")
    _, found = run(path, clock, item_of(1, raises(AssertionError("again"))), item_of(2, adds()))
    assert (found[1]["answer"], found[2]["answer"]) == ("failed", "measured")
    assert "ended in it 2 times" in found[1]["reason"]


def test_a_line_that_was_cut_off_does_not_spoil_the_file(path: Path, clock: Clock) -> None:
    """A run that was killed while it wrote can be gone on with."""
    run(path, clock, item_of(1, adds()))
    with path.open("a") as file:
        file.write('{"item": 2, "answ')
    _, found = run(path, clock, item_of(2, adds()))
    assert sorted(found) == [1, 2]
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("error", "answer", "reason"),
    [
        (Refused("needs a CUDA device: no CUDA graphs on a CPU"), "refused", "needs a CUDA device: no CUDA graphs on a CPU"),
        (ModuleNotFoundError("no", name="xformers"), "refused", "the package xformers is not installed"),
        (ValueError("a wrong shape"), "failed", "ValueError: a wrong shape"),
    ],
)
def test_why_an_item_has_no_figures_is_said(path: Path, clock: Clock, error: Exception, answer: str, reason: str) -> None:
    """An item that this machine cannot do is refused by name, one that broke is failed with its words; those after it are run."""
    stage = Bare()
    status, found = run(path, clock, item_of(1, raises(error)), item_of(2, adds()), stage=stage)
    assert (found[1]["answer"], found[1]["reason"]) == (answer, reason)
    assert (status, found[2]["answer"], stage.released) == (0, "measured", 2)


def test_a_part_that_breaks_leaves_the_others(path: Path, clock: Clock) -> None:
    """A fault in one part of an item is told, and so is what another part refuses; the rest is measured."""

    def in_parts(_stage: Bare, findings: Findings) -> None:
        for name, error in {"broken": RuntimeError("too large"), "refused": Refused("needs a CUDA device")}.items():
            with findings.part(name):
                raise error
        with findings.part("whole"):
            findings.add("step_ms", 2.0)

    _, found = run(path, clock, item_of(3, in_parts))
    assert found[3]["answer"] == "measured"
    assert found[3]["faults"] == {"broken": "RuntimeError: too large"}
    assert found[3]["refused"] == {"refused": "needs a CUDA device"}
    assert found[3]["figures"] == {"step_ms": 2.0}


def test_a_device_that_broke_is_left_to_another_process(path: Path, clock: Clock) -> None:
    """After an error by which the device answers no more, the item is answered, nothing else is run, and the status asks for a process."""

    class AcceleratorError(RuntimeError):
        """As torch's."""

    def breaks(_stage: Bare, findings: Findings) -> None:
        with findings.part("part"):
            raise AcceleratorError("an illegal memory access was encountered")

    items = (item_of(1, breaks), item_of(2, adds()))
    status, found = run(path, clock, *items)
    assert (status, found[1]["answer"], sorted(found)) == (GO_ON, "failed", [1])
    status, found = run(path, clock, *items)
    assert (status, found[2]["answer"]) == (0, "measured")


def test_a_device_that_lets_go_of_nothing_is_left_to_another_process(path: Path, clock: Clock) -> None:
    """Where what an item left behind cannot be freed, its answer stands, and the status asks for another process."""

    class Stuck(Bare):
        def release(self) -> None:
            raise RuntimeError("an illegal memory access was encountered")

    status, found = run(path, clock, item_of(1, adds()), item_of(2, adds()), stage=Stuck())
    assert (status, sorted(found), found[1]["answer"]) == (GO_ON, [1], "measured")


def test_nothing_is_begun_once_the_budget_is_over(path: Path, clock: Clock) -> None:
    """An item gets no more time than the run has left; one that is expected to take more is not begun, and a shorter one after it is."""

    def slow(_stage: Bare, findings: Findings) -> None:
        assert findings.deadline.seconds == 18
        clock.advance(10)
        findings.add("step_ms", 1.0)

    items = item_of(1, slow, seconds=18), item_of(2, adds(), seconds=9), item_of(3, adds(), seconds=8)
    status, found = run(path, clock, *items, budget_s=18)
    assert (status, sorted(found), found[1]["answer"]) == (0, [1, 3], "measured")


def test_what_the_budget_cut_short_is_done_again(path: Path, clock: Clock) -> None:
    """An item that had less than its own deadline and ran over keeps its figures as cut, however often, until a run has time for it."""

    def slow(_stage: Bare, findings: Findings) -> None:
        findings.add("first_ms", clock.now)
        clock.advance(12)
        findings.add("second_ms", clock.now)
        findings.add("third_ms", clock.now)

    for _ in range(3):
        _, found = run(path, clock, item_of(1, slow), budget_s=11)
        assert found[1]["answer"] == "cut"
        assert set(found[1]["figures"]) == {"first_ms", "second_ms"}
    _, found = run(path, clock, item_of(1, slow))
    assert (found[1]["answer"], set(found[1]["figures"])) == ("measured", {"first_ms", "second_ms", "third_ms"})
    _, again = run(path, clock, item_of(1, raises(AssertionError("again"))))
    assert again == found


def test_a_rehearsal_claims_no_figure(path: Path, clock: Clock) -> None:
    """Values of a rehearsal stand under another name than figures do."""
    _, found = run(path, clock, item_of(1, adds()), stage=Bare(rehearsal=True))
    assert "figures" not in found[1]
    assert found[1]["rehearsed"] == {"step_ms": 1.0}


def test_a_file_of_another_card_is_not_gone_on_with(path: Path) -> None:
    """Figures of two cards never stand in one file."""
    Answers(path).open(HEADER)
    with pytest.raises(AnswersError, match=r"its card is 'NVIDIA H100' and this run's 'NVIDIA A100'; name another file with --out"):
        Answers(path).open({**HEADER, "card": "NVIDIA A100"})


@pytest.mark.parametrize("line", ["not json", "[1]", '{"item": 1}'])
def test_a_file_that_is_something_else_is_refused(path: Path, line: str) -> None:
    """A line that is no answer is named by its number."""
    path.write_text(f"{json.dumps({'header': HEADER})}\n{line}\n")
    with pytest.raises(AnswersError, match="line 2"):
        Answers(path)


def test_a_figure_says_its_unit(clock: Clock) -> None:
    """A figure whose name does not end with a unit is refused; what is not finite is written as nothing, as JSON has no word for it."""
    findings = Findings(Deadline(10, clock))
    with pytest.raises(ValueError, match="step does not end with a unit"):
        findings.add("step", 1.0)
    findings.add("step_ms", float("nan"))
    assert findings.details(rehearsal=False)["figures"] == {"step_ms": None}


def test_all_of_an_item_fits_into_its_deadline() -> None:
    """Whole UNets are compiled last in their item, and it has time for them after all before has taken twice what was expected."""
    (item,) = chosen(None, "10")
    before_s = item.seconds - sum(WHOLE_S.values())
    assert before_s >= 30
    assert item.deadline_s - 2 * before_s - WHOLE_S["sd15"] >= WHOLE_S["sdxl"]


def test_the_halves_are_all_items_in_order() -> None:
    """Two halves of about six minutes make up the thirteen items, each once."""
    halves = [[item.number for item in chosen(half, None)] for half in HALVES]
    assert halves == [list(range(1, 8)), list(range(8, 14))]
    assert [item.number for item in chosen(None, None)] == list(range(1, 14))
    assert [sum(item.seconds for item in chosen(half, None)) for half in HALVES] == [340, 380]
    assert [item.number for item in chosen(None, "6, 3")] == [3, 6]


@pytest.mark.parametrize("arguments", [["--items", "14"], ["--items", "x"]])
def test_an_item_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """A wrong number is said before anything is run."""
    assert main(arguments) == 2
    assert f"there is no item {arguments[1]}; there are 1 to {len(ITEMS)}" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["report", "--half", "1"], ["bench", "--rehearse"]])
def test_an_option_that_would_do_nothing_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """The report and the benchmark take no options of a run."""
    assert main(arguments) == 2
    assert f"{arguments[0]} takes no options" in capsys.readouterr().err


def test_a_rehearsal_is_a_command(path: Path) -> None:
    """The command line rehearses what it is told in a process of its own, and writes a header that says so."""
    assert main(["--rehearse", "--items", "7", "--out", str(path), "--commit", "abc"]) == 0
    answers = Answers(path)
    assert (answers.header["rehearsal"], answers.header["commit"], list(answers.by_item)) == (True, "abc", [7])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_measured(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run without a CUDA device says so, and writes nothing."""
    assert main(["--one-process", "--items", "7", "--out", str(path)]) == 2
    assert "torch sees no CUDA device; --rehearse runs the same code on the CPU" in capsys.readouterr().err
    assert not path.exists()


def test_another_process_goes_on_as_long_as_one_asks_for_it(tmp_path: Path) -> None:
    """After the status that asks for another process, and after one that was killed, the next begins; any other status is the run's."""
    script = tmp_path / "process.py"
    script.write_text(
        "import os, pathlib, signal, sys\n"
        "count = pathlib.Path(sys.argv[1])\n"
        "count.write_text(count.read_text() + 'x' if count.exists() else 'x')\n"
        "turn = len(count.read_text())\n"
        f"sys.exit({GO_ON}) if turn == 1 else os.kill(os.getpid(), signal.SIGKILL) if turn == 2 else sys.exit(3)\n"
    )
    assert supervise([str(tmp_path / "count")], command=[sys.executable, str(script)]) == 3
    assert (tmp_path / "count").read_text() == "xxx"


def test_processes_share_one_budget(tmp_path: Path) -> None:
    """A process that goes on is told what the one before has left of the seconds for all."""
    script, log = tmp_path / "process.py", tmp_path / "log"
    script.write_text(
        "import pathlib, sys\n"
        "log = pathlib.Path(sys.argv[1])\n"
        "log.write_text((log.read_text() if log.exists() else '') + sys.argv[-1] + '\\n')\n"
        f"sys.exit({GO_ON} if len(log.read_text().split()) == 1 else 0)\n"
    )
    assert supervise([str(log)], budget_s=100, command=[sys.executable, str(script)]) == 0
    first, second = map(float, log.read_text().split())
    assert 0 < second < first <= 100
