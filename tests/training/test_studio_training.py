"""Studio's training, at the size of a thimble: it stops and goes on, and what it exports loads everywhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

import torch

from training.studio import alignment as alignments
from training.studio import autoencoder, checkpoint, decoder, diffusion, export, judge, latents, precision, reward, sampling, store, text
from training.studio.alignment import Alignment
from training.studio.recipe import Phase, Recipe

TINY = replace(
    Recipe(),
    scenes=4, shard=2, vae_channels=8, vae_encoder_blocks=(0, 0, 1), vae_decoder_blocks=(1, 0, 0), vae_steps=4, vae_batch=2,
    decoder_steps=2, decoder_batch=2, unet_channels=(32, 32, 64), unet_layers=(2, 1, 1), text_width=32, text_layers=1, text_steps=4, text_batch=2,
    phases=(Phase(2, 2, 4e-4, 2, 0, 0.9, power=1.0), Phase(2, 4, 4e-4, 1, 2, 0.9, power=1.7), Phase(2, 2, 4e-4, 1, 0, 0.9, 1.0, painted=4, reward=0.1)),
    reward_steps=2, reward_batch=4,
    judge_steps=2, judge_batch=2, held_out=1, checkpoint_every=1, sheet_every=1000,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages before the UNet are done."""
    directory = tmp_path_factory.mktemp("studio")
    store.render(TINY, directory, quiet)
    assert autoencoder.train(TINY, directory, quiet)
    latents.compute(TINY, directory, quiet)
    assert text.train(TINY, directory, quiet)
    assert reward.train(TINY, directory, quiet)
    return directory


def quiet(_line: str) -> None:
    """No log."""


def weights(work: Path, stage: str, name: str) -> dict[str, torch.Tensor]:
    state = checkpoint.newest(work / stage)
    assert state is not None
    found: dict[str, torch.Tensor] = state[name]
    return found


def draws(work: Path, recipe: Recipe = TINY) -> diffusion.Draws:
    return diffusion.Draws(recipe, text.tokenizer_for(recipe, work), latents.load(work))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def copied(work: Path, to: Path, *folders: str) -> Path:
    for folder in folders:
        shutil.copytree(work / folder, to / folder)
    return to


def exported(work: Path, folder: Path) -> Path:
    """A pipeline of what is in ``work``; a UNet is made up where none was trained."""
    if checkpoint.newest(work / "unet") is None:
        checkpoint.save(work / "unet", TINY.unet_steps, diffusion.Learner(TINY, text.tokenizer_for(TINY, work)).state())
    assert decoder.train(TINY, work, quiet)
    return export.export(TINY, work, folder / "pipeline")


def test_an_autoencoder_that_was_stopped_ends_as_one_that_was_not(work: Path, tmp_path: Path) -> None:
    stopped = copied(work, tmp_path, "scenes", "autoencoder")
    max((stopped / "autoencoder").glob("step-*.pt")).unlink()
    assert autoencoder.train(TINY, stopped, quiet)
    assert same(weights(work, "autoencoder", "model"), weights(stopped, "autoencoder", "model"))


def test_a_unet_that_was_stopped_ends_as_one_that_was_not(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "prompts_sheet", lambda *_args: np.zeros((8, 8, 3), np.uint8))
    assert diffusion.train(TINY, work, quiet)
    stopped = copied(work, tmp_path, "scenes", "autoencoder", "latents", "reward", "unet")
    max((stopped / "unet").glob("step-*.pt")).unlink()
    assert diffusion.train(TINY, stopped, quiet)
    for name in ("networks", "ema"):
        assert same(weights(work, "unet", name), weights(stopped, "unet", name))


def test_only_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, {})
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["step-0000002.pt", "step-0000003.pt"]


def test_the_noise_schedule_ends_in_pure_noise() -> None:
    values = sampling.alphas_cumprod()
    assert values.shape == (1000,)
    assert values[-1] == 0.0
    assert values[0] > 0.99


def test_the_export_loads_in_the_stock_pipeline_and_paints(work: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionInpaintPipeline

    directory = exported(work, tmp_path)
    assert not [file for file in directory.rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    pipeline: Any = StableDiffusionInpaintPipeline.from_pretrained(directory, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    picture, mask = Image.new("RGB", (256, 256), "teal"), Image.new("L", (256, 256), 255)
    painted = pipeline(
        "white marble", image=picture, mask_image=mask, height=256, width=256, num_inference_steps=2, output_type="np"
    ).images
    assert painted.shape == (1, 256, 256, 3)
    assert np.isfinite(painted).all()


@pytest.mark.parametrize(
    ("stage", "run"), [("text", text.train), ("reward", reward.train), ("decoder", decoder.train), ("judge", judge.train)]
)
def test_a_small_stage_that_was_stopped_ends_as_one_that_was_not(work: Path, tmp_path: Path, stage: str, run: Any) -> None:
    assert run(TINY, work, quiet)
    stopped = copied(work, tmp_path, "scenes", "tokenizer", "autoencoder", "latents", stage)
    max((stopped / stage).glob("step-*.pt")).unlink()
    assert run(TINY, stopped, quiet)
    assert same(weights(work, stage, "model"), weights(stopped, stage, "model"))


def test_the_unet_starts_from_a_text_encoder_that_can_read(work: Path) -> None:
    learner = diffusion.Learner(TINY, text.tokenizer_for(TINY, work))
    learner.begin(text_encoder=text.load(TINY, work))
    learned = weights(work, "text", "model")
    for name, value in learner.networks["text_encoder"].state_dict().items():
        assert torch.equal(value, learned[f"encoder.{name}"])
        assert torch.equal(learner.ema[f"text_encoder.{name}"], value)


def test_a_run_goes_on_from_the_weights_of_a_pipeline(work: Path, tmp_path: Path) -> None:
    """``--from PIPELINE`` begins with its UNet and text encoder, and keeps its autoencoder, decoder and all."""
    pipeline = exported(work, tmp_path)
    learner = diffusion.Learner(TINY, text.tokenizer_for(TINY, work))
    learner.begin(**diffusion.weights_of(pipeline))
    state = checkpoint.newest(work / "unet")
    assert state is not None
    for name, value in learner.networks.state_dict().items():
        learned = state["ema"][name]
        assert torch.equal(value, learned.half().float() if name.startswith("unet.") else learned)
        assert torch.equal(learner.ema[name], value)
    autoencoder.adopt(tmp_path, pipeline)
    assert same(autoencoder.load(TINY, tmp_path).state_dict(), decoder.load(TINY, work).state_dict())


def test_threads_that_share_a_batch_learn_what_one_learns(work: Path) -> None:
    """Two threads take halves of the batch; the gradients of a step are those of one thread, up to rounding."""
    learners = [diffusion.Learner(TINY, text.tokenizer_for(TINY, work), threads=threads) for threads in (1, 2)]
    data = latents.load(work)
    drawn = draws(work)[0]
    losses = [float(learner.learn(data, drawn)) for learner in learners]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    one, two = (
        torch.cat([value.grad.flatten() for value in learner.networks.parameters() if value.grad is not None]) for learner in learners
    )
    assert (one - two).norm() < 0.02 * one.norm()


def test_a_phase_begins_with_the_averages_of_the_one_before(work: Path) -> None:
    """A new optimiser from averaged weights, with the batch and the rate of the phase, no pictures of the last one; after the last there is no step."""
    recipe = replace(TINY, phases=(TINY.phases[0], replace(TINY.phases[1], rate=0.0)))
    learner, data, drawn = diffusion.Learner(recipe, text.tokenizer_for(TINY, work)), latents.load(work), draws(work, recipe)
    for step in range(2):
        learner.learn(data, drawn[step])
    before, averages = learner.optimiser, {name: value.clone() for name, value in learner.ema.items()}
    learner.alignment = Alignment(learner.tokenizer, data, reward.load(TINY, work), learner.pool, 1)
    learner.alignment.pictures = learner.alignment._draw(2, *checkpoint.step_rngs(1, 1, 1))[0]
    learner.learn(data, drawn[2])
    assert learner.alignment.pictures is None
    assert learner.optimiser is not before
    assert same(learner.networks.state_dict(), averages)
    assert [len(drawn[step].scenes) for step in range(4)] == [2, 2, 4, 4]
    with pytest.raises(ValueError, match="step 4 comes after the last"):
        drawn[4]


def test_a_step_without_a_finite_gradient_changes_nothing(work: Path) -> None:
    learner, data = diffusion.Learner(TINY, text.tokenizer_for(TINY, work)), latents.load(work)
    before = {name: value.clone() for name, value in learner.networks.state_dict().items()}
    broken = replace(data, scaling_factor=float("nan"))
    assert np.isnan(float(learner.learn(broken, draws(work)[0])))
    assert same(learner.networks.state_dict(), before)
    assert np.isfinite(float(learner.learn(data, draws(work)[1])))
    assert not same(learner.networks.state_dict(), before)


def test_batches_that_are_drawn_ahead_are_those_of_their_steps(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a GPU other processes draw; whichever of them is first, a step gets its own."""
    monkeypatch.setattr(diffusion, "_AHEAD", 2)
    here, ahead = ([*diffusion.ahead(draws(work), range(4), device)] for device in ("cpu", "cuda"))
    assert len(ahead) == 4
    assert all(torch.equal(one, other) for pair in zip(here, ahead, strict=True) for one, other in zip(*pair, strict=True))


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> int:
    """Steps from noise to a picture: fewer than the trained twenty, for which the tests would take minutes."""
    monkeypatch.setattr(alignments, "STEPS", 8)
    return 8


def test_the_pictures_of_an_alignment_are_those_of_the_sampler(work: Path, few_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From noise to the last step each picture in progress is what the stock DDIM scheduler makes of guided predictions; then a new one begins."""
    monkeypatch.setattr(precision, "_fast", lambda _device: False)
    learner, alignment, phase = aligned(work, reward=0.0)
    rng, generator = checkpoint.step_rngs(1, 1, 1)
    for _ in range(few_steps):  # until those that began in the middle are finished
        alignment.step(learner.networks, phase, rng, generator)
    assert alignment.pictures is not None
    scheduler = sampling.scheduler()
    scheduler.set_timesteps(few_steps)
    finished = 0
    for _ in range(few_steps):
        before = deepcopy(alignment.pictures)
        place = int((before.at % few_steps).argmin())
        missed = alignment.step(learner.networks, phase, rng, generator)
        finished += len(missed)
        one = before[place : place + 1]
        if int(one.at) == few_steps:
            assert int(alignment.pictures.at[place]) == 1
            continue
        shown = torch.cat([one.noisy, one.mask, one.masked], dim=1)
        timestep = scheduler.timesteps[one.at]
        with torch.no_grad():
            said = [
                learner.networks["unet"](shown, timestep, learner.networks["text_encoder"](tokens)[0], return_dict=False)[0].float()
                for tokens in (one.tokens, alignment.empty)
            ]
        guided = said[1] + sampling.GUIDANCE * (said[0] - said[1])
        wanted = scheduler.step(guided, timestep[0], one.noisy, return_dict=False)[0]
        assert (alignment.pictures.noisy[place] - wanted[0]).abs().max() < 1e-4
    assert finished == phase.painted


def test_an_alignment_teaches_what_the_reward_asks(work: Path, few_steps: int) -> None:
    """Of pictures from the same noise, those that are painted after steps for the reward alone miss less than those painted without."""
    missed = []
    for rate in (0.0, 3e-4):
        learner, alignment, phase = aligned(work, reward=1.0)
        optimiser = torch.optim.Adam(learner.networks.parameters(), lr=rate)
        found = []
        for step in range(2 * few_steps):
            rng, generator = checkpoint.step_rngs(1, 1, step)
            optimiser.zero_grad()
            found.append(alignment.step(learner.networks, phase, rng, generator))
            optimiser.step()
        missed.append(float(torch.cat(found[-few_steps:]).mean()))
    assert missed[1] < 0.9 * missed[0]


def aligned(work: Path, **changes: Any) -> tuple[diffusion.Learner, Alignment, Phase]:
    learner = diffusion.Learner(TINY, text.tokenizer_for(TINY, work), threads=2)
    return (
        learner,
        Alignment(learner.tokenizer, latents.load(work), reward.load(TINY, work), learner.pool, 2),
        replace(TINY.phases[-1], **changes),
    )


def test_a_loss_that_is_no_number_ends_the_training(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything of it is saved: the last checkpoint is from before."""
    broken = copied(work, tmp_path, "scenes", "autoencoder", "latents", "tokenizer", "text", "reward")
    monkeypatch.setattr(diffusion.Learner, "learn", lambda _self, _data, _drawn: torch.tensor(float("nan")))
    with pytest.raises(FloatingPointError, match="none of 1 steps had a finite gradient"):
        diffusion.train(replace(TINY, log_every=1), broken, quiet)
    assert checkpoint.newest(broken / "unet") is None


def test_texture_counts_wherever_it_lies() -> None:
    """Other grain of the same kind is nearer to a grainy picture than the picture's own mean is, which pixel by pixel is nearer."""
    generator = torch.Generator().manual_seed(1)
    grain, other = (torch.randn(2, 3, 64, 64, generator=generator) * 0.2 for _ in range(2))
    smooth = torch.zeros_like(grain)
    assert (grain - smooth).abs().mean() < (grain - other).abs().mean()
    distances = [float(decoder.texture_distance(grain, each, torch.Generator().manual_seed(2))) for each in (grain, other, smooth)]
    assert distances[0] == 0
    assert distances[1] < 0.2 * distances[2]


def test_the_decoder_learns_and_the_encoder_stays(work: Path) -> None:
    """The stage ``decoder`` changes the decoder alone, so that latents keep their meaning."""
    assert decoder.train(TINY, work, quiet)
    before, after = autoencoder.load(TINY, work), decoder.load(TINY, work)
    assert same(before.encoder.state_dict(), after.encoder.state_dict())
    assert not same(before.decoder.state_dict(), after.decoder.state_dict())


def test_colours_of_rendered_scenes_are_told_by_their_statistics(tmp_path: Path) -> None:
    """Of scenes that the statistics have not seen, most walls and surfaces get their colour's name, from 64 that they have."""
    recipe = replace(TINY, scenes=80, shard=40)
    store.render(recipe, tmp_path, quiet)
    scenes = store.Scenes(tmp_path)
    colours = judge.ColourStatistics.of(scenes, 64)
    right = []
    for index in range(64, 80):
        pixels, facts = scenes.pixels(index), scenes.facts[index]
        for role, part in judge.parts_of(facts).items():
            term = colours.term(np.asarray(pixels[..., :3]), pixels[..., 3] < 128, role, facts)
            if term is not None:
                right.append(term == judge.colour_of(part))
    assert len(right) > 15
    assert np.mean(right) > 0.6


def test_a_stage_names_the_one_that_must_come_before(work: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the stage `unet` is not finished"):
        export.export(TINY, copied(work, tmp_path, "tokenizer"), tmp_path / "pipeline")
    with pytest.raises(FileNotFoundError, match="the stage `reward` is not finished"):
        reward.load(replace(TINY, reward_steps=TINY.reward_steps + 1), work)
