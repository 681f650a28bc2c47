"""docs/gpu.md says what was measured, beside what was expected, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.gpu_facts import bench
from scripts.gpu_facts.answers import Answers, AnswersError
from scripts.gpu_facts.bench import ABSOLUTE, LIMITS, PARITY, limited
from scripts.gpu_facts.catalogue import ITEMS
from scripts.gpu_facts.estimates import ESTIMATES
from scripts.gpu_facts.report import document, read_runs

ROOT = Path(__file__).parents[2]
H100 = {
    "card": "NVIDIA H100 80GB HBM3",
    "driver": "580.1",
    "torch": "2.11.0",
    "cudnn": "91900",
    "date": "2026-12-01",
    "commit": "abc123",
    "rehearsal": False,
}
FIGURES: dict[int, dict[str, Any]] = {
    3: {"sdxl_rows_2_flash_ms": 50.0, "sdxl_rows_2_cudnn_ms": 45.0, "sdxl_rows_2_efficient_ms": 60.0},
    5: {"sd15_outfill_eager_picture_s": 1.234, "sd15_stock_eager_picture_s": 0.9},
    6: {"sd15_rows_2_eager_ms": 20.0, "sd15_rows_2_replay_ms": 11.0},
    10: {"sd15_outfill_compiled_picture_s": 0.71, "sd15_regional_rows_2_replay_ms": 8.25},
    12: {"sdxl_lora_eager_step_before_ms": 50.0, "sdxl_lora_eager_step_after_ms": None},
}


def write(path: Path, header: dict[str, Any], figures: dict[int, dict[str, Any]]) -> None:
    """A file of answers."""
    lines = [{"header": header}, *({"item": item, "answer": "measured", "figures": given} for item, given in figures.items())]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def rows(text: str) -> dict[tuple[str, str], list[str]]:
    """The cells of runs, by what was estimated and for which card."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        found[cells[0], cells[2] if len(cells) > 2 else ""] = cells[4:]
    return found


def test_the_document_is_what_the_report_writes() -> None:
    """docs/gpu.md cannot say what no committed file of answers says."""
    text = (ROOT / "docs" / "gpu.md").read_text()
    assert text == document(read_runs(ROOT / "docs" / "gpu-facts")), "run python -m scripts.gpu_facts report"


def test_figures_stand_beside_their_estimates(tmp_path: Path) -> None:
    """Each figure lands in the cell of its estimate, under its card and date; what has none is not measured."""
    write(tmp_path / "h100.jsonl", H100, FIGURES)
    text = document(read_runs(tmp_path))
    assert "| item | for | estimate | NVIDIA H100 80GB HBM3, 2026-12-01 |" in text
    cells = rows(text)
    assert cells["1.5, 50 steps, uncompiled", "H100"] == ["1.23 s"]
    assert cells["1.5, 50 steps, the fastest of ours; the goal", "H100"] == ["0.71 s"]
    assert cells["attention by measurement, of a step of XL", "H100"] == ["10% (cudnn)"]
    assert cells["a CUDA graph of the eager UNet of 1.5, 2 rows", "H100"] == ["20.0 → 11.0 ms"]
    assert cells["compiled blocks under a graph, 1.5, 2 rows, of the device's time", "H100"] == ["25% less"]
    assert cells["what a LoRA leaves behind in XL", "H100"] == ["not measured"]
    assert cells["XL, 30 steps, uncompiled", "H100"] == ["not measured"]
    assert cells["1.5, 50 steps, uncompiled", "A100"] == ["not measured"]


def test_every_card_has_a_column(tmp_path: Path) -> None:
    """Runs stand side by side, each beside the estimates for its card, and where there are none beside those for an H100."""
    seconds = {"sd15_outfill_eager_picture_s": 1.7, "sdxl_outfill_eager_picture_s": 4.0}
    write(tmp_path / "a100.jsonl", {**H100, "card": "NVIDIA A100"}, {5: seconds})
    write(tmp_path / "h100.jsonl", H100, FIGURES)
    write(tmp_path / "h200.jsonl", {**H100, "card": "NVIDIA H200"}, {5: {"sd15_outfill_eager_picture_s": 0.8}})
    cells = rows(document(read_runs(tmp_path)))
    assert cells["1.5, 50 steps, uncompiled", "A100"] == ["1.70 s", "not measured", "not measured"]
    assert cells["1.5, 50 steps, uncompiled", "H100"] == ["not measured", "1.23 s", "0.80 s"]
    assert cells["XL, 30 steps, uncompiled", "H100"] == ["4.00 s", "not measured", "not measured"]


def test_an_item_without_figures_says_why(tmp_path: Path) -> None:
    """An item that was refused, failed or stopped is told with its reason."""
    answer = {"item": 3, "answer": "refused", "reason": "needs a CUDA device: no | here"}
    (tmp_path / "h100.jsonl").write_text(f"{json.dumps({'header': H100})}\n{json.dumps(answer)}\n")
    text = document(read_runs(tmp_path))
    assert "refused (needs a CUDA device: no / here)" in text
    assert text.count("| not run |") == len(ITEMS) - 1


@pytest.mark.parametrize("line", [{"header": {**H100, "rehearsal": True}}, {"item": 1, "answer": "measured"}])
def test_a_rehearsal_is_no_measurement(tmp_path: Path, line: dict[str, Any]) -> None:
    """A file of a rehearsal, or one that does not say what it is of, is refused by name."""
    (tmp_path / "wrong.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(AnswersError, match=r"wrong\.jsonl"):
        read_runs(tmp_path)


def test_estimates_are_answered_by_items_that_there_are() -> None:
    """Every estimate names the items whose figures answer it, and no line of a card stands twice."""
    numbers = {item.number for item in ITEMS}
    assert all(estimate.items and set(estimate.items) <= numbers for estimate in ESTIMATES)
    lines = [(estimate.what, estimate.card) for estimate in ESTIMATES if not estimate.what.startswith("…")]
    assert len(lines) == len(set(lines))


def test_figures_are_held_against_their_limits() -> None:
    """The benchmark compares what was measured with its limits: seconds on cards that they are for, ratios on any."""
    figures: dict[str, float | None] = {
        "sd15_outfill_eager_picture_s": 0.9,
        "sd15_outfill_compiled_picture_s": 0.44,
        "sdxl_outfill_eager_picture_s": 1.5,
        "sd15_outfill_over_stock_eager_ratio": 1.01,
        "sdxl_outfill_over_stock_eager_ratio": 0.9,
        "sd15_1_at_once_pictures_per_s": 1.0,
        "sd15_8_at_once_pictures_per_s": 4.0,
        "sdxl_in_8_peak_gib": 7.9,
        "sdxl_latents_in_company_error": 0.051,
        "sd15_ddim_latents_error": None,
    }
    result = limited(H100["card"], figures)  # type: ignore[arg-type]
    assert set(result) == {*ABSOLUTE, *LIMITS, *PARITY}
    assert result["sd15_picture_of_50_steps_s"] == {"value": 0.44, "limit": 0.45, "holds": True}
    assert result["sdxl_picture_of_30_steps_s"] == {"value": 1.5, "limit": 1.4, "holds": False}
    assert result["sd15_over_stock_eager_ratio"]["holds"] is False
    assert result["sdxl_over_stock_eager_ratio"]["holds"] is True
    assert result["sd15_time_per_picture_in_a_batch_over_alone_ratio"]["value"] == 0.25
    assert result["sdxl_time_per_picture_in_a_batch_over_alone_ratio"] == {
        "value": None,
        "limit": 1.0,
        "holds": None,
        "why": "not measured",
    }
    assert result["sdxl_latents_in_company_error"]["holds"] is False
    assert result["sd15_ddim_latents_error"] == {"value": None, "limit": 0.05, "holds": False, "why": "not finite"}
    assert set(limited("NVIDIA L4", figures)) == {*LIMITS, *PARITY}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"answer": "measured"}, 0),
        ({"answer": "measured", "faults": {"sdxl_eager": "ValueError: a wrong shape"}}, 1),
        ({"answer": "failed", "reason": "ValueError: a wrong shape"}, 1),
        ({"answer": "deadline", "reason": "its 65 s were over"}, 1),
        ({"answer": "cut", "reason": "its 20 s were over"}, 1),
    ],
)
def test_a_benchmark_with_an_item_that_broke_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], status: int
) -> None:
    """A measured run whose figures all hold fails where an item broke, or had no time for all that it asks."""
    monkeypatch.chdir(tmp_path)
    answers = Answers(tmp_path / "facts.jsonl")
    answers.open({**H100, "card": "NVIDIA L4"})
    answers.answer(1, "all", "measured", {"figures": holding()})
    answers.answer(12, "a LoRA that comes late", answer["answer"], answer)
    assert bench._measured(answers) == status


def test_a_benchmark_without_a_figure_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A figure that has a limit and was not measured is printed as such, and its limit was not shown to hold."""
    monkeypatch.chdir(tmp_path)
    answers = Answers(tmp_path / "facts.jsonl")
    answers.open({**H100, "card": "NVIDIA L4"})
    figures = holding()
    del figures["sd15_alone_peak_gib"]
    answers.answer(1, "all", "measured", {"figures": figures})
    assert bench._measured(answers) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "sd15_alone_peak_gib" in line]
    assert "not measured" in line
    assert "NO" not in line


def holding() -> dict[str, float]:
    """Figures by which all limits of any card hold."""
    named = {name.replace("_over_stock", "_outfill_over_stock"): 0.01 for name in (*LIMITS, *PARITY)}
    rates = {f"{family}_{pictures}_at_once_pictures_per_s": pictures for family in ("sd15", "sdxl") for pictures in (1, 8)}
    return named | rates
