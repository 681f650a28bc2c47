"""One process of a run: a stage, a file of answers, and the items that have none yet."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import structlog
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from scripts.gpu_facts.answers import Answers
from scripts.gpu_facts.catalogue import chosen
from scripts.gpu_facts.header import default_path, header_of
from scripts.gpu_facts.runner import Runner
from scripts.gpu_facts.stage import Stage


def main(options: argparse.Namespace) -> int:
    """Run as ``options`` say; the exit status. Raises ``ValueError`` for what they cannot mean here."""
    if not options.rehearse and not torch.cuda.is_available():
        raise ValueError("torch sees no CUDA device; --rehearse runs the same code on the CPU")
    _quiet()
    with tempfile.TemporaryDirectory() as folder:
        return run(Stage(Path(folder), rehearsal=options.rehearse), options)


def run(stage: Stage, options: argparse.Namespace) -> int:
    """Run on ``stage``."""
    header = header_of(stage.device, rehearsal=stage.rehearsal, commit=options.commit)
    answers = Answers(options.out or default_path(header))
    answers.open(header)
    status = Runner(stage, answers, budget_s=options.budget_s).run(chosen(options.half, options.items))
    print(f"{len(answers.by_item)} items are answered in {answers.path}", flush=True)
    return status


def _quiet() -> None:
    """The answers are what is to be read."""
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
