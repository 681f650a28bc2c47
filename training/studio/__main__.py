"""Train Studio, the model that ships with Outfill.

    python -m training.studio all --work build/studio

Stages: render, autoencoder, latents, text, reward, unet, decoder, export, judge, evaluate; ``all`` runs them in this order, and ``sample`` shows what the newest
checkpoint paints. Each goes on where it was stopped: SIGTERM saves and ends, SIGSTOP and SIGCONT pause. ``--from PIPELINE`` begins with finished weights.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from training.studio import autoencoder, checkpoint, decoder, diffusion, evaluation, export, judge, latents, reward, sampling, store, text
from training.studio.recipe import Recipe

STAGES = ("render", "autoencoder", "latents", "text", "reward", "unet", "decoder", "export", "judge", "evaluate")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "sample", "all"])
    parser.add_argument("--work", type=Path, default=Path("build/studio"))
    parser.add_argument("--out", type=Path, help="the pipeline directory that is exported and evaluated (default: WORK/pipeline)")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU, and processes that render and encode")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="what encodes the scenes and trains the UNet; all else is small"
    )
    parser.add_argument("--from", type=Path, dest="start", help="a pipeline directory to go on from, instead of from nothing: fewer steps")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    recipe = Recipe().refining if arguments.start else Recipe()
    stages = STAGES if arguments.stage == "all" else (arguments.stage,)
    if arguments.stage == "all":
        (arguments.work / "pid").write_text(f"{os.getpid()}\n", encoding="ascii")
    out = arguments.out or arguments.work / "pipeline"
    return 0 if all(_run(stage, recipe, arguments.work, out, arguments.start, arguments.device) for stage in stages) else 1


def _run(stage: str, recipe: Recipe, work: Path, out: Path, start: Path | None, device: str) -> bool:
    """False where the stage was told to stop before its end."""
    runs: dict[str, Callable[[], object]] = {
        "render": lambda: store.render(recipe, work, _log, torch.get_num_threads()),
        "autoencoder": lambda: autoencoder.adopt(work, start) if start else autoencoder.train(recipe, work, _log),
        "latents": lambda: latents.compute(recipe, work, _log, torch.get_num_threads(), device),
        "text": lambda: start or text.train(recipe, work, _log),
        "unet": lambda: diffusion.train(recipe, work, _log, start, device),
        "reward": lambda: reward.train(recipe, work, _log),
        "decoder": lambda: decoder.train(recipe, work, _log),
        "export": lambda: export.export(recipe, work, out),
        "judge": lambda: judge.train(recipe, work, _log),
        "evaluate": lambda: evaluation.evaluate(recipe, work, out, _log),
        "sample": lambda: _sample(recipe, work),
    }
    _log(f"{stage}:")
    return runs[stage]() is not False


def _sample(recipe: Recipe, work: Path) -> None:
    """A sheet of prompts from the newest checkpoint."""
    learner = diffusion.Learner(recipe, text.tokenizer_for(recipe, work))
    learner.restore(checkpoint.of_stage(work, "unet"))
    pictures = sampling.prompts_sheet(recipe, work, learner.averaged(), learner.tokenizer, latents.scaling_factor(work))
    store.sheet(work / "sample.png", pictures)
    _log(f"{work / 'sample.png'} after {learner.step} steps")


def _log(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
