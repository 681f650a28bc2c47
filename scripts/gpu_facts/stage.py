"""The ground that items stand on: a device, weights drawn on it once for both sides, and pictures to paint."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from api_schemas.models import ModelCard
from api_schemas.requests import Scheduler
from scripts import tiny_pipeline, true_size
from scripts.gpu_facts.cpu_device import CpuDevice
from scripts.gpu_facts.cuda_device import CudaDevice
from scripts.gpu_facts.device import Device
from scripts.stock import stock_of
from worker.engines.base import Engine, PaintRequest, Pixels, Sampling, Slot, begin
from worker.engines.device import read_device
from worker.engines.diffusion.card import card_for
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.parts import Parts, load_parts
from worker.engines.diffusion.unet_call import UnetCall
from worker.tuning import DeviceFacts, Dtype, ModelFacts, Tuning, Wishes, choose

FAMILIES = ("sd15", "sdxl")
INPAINT = {"sd15": "sd15-inpaint", "sdxl": "sdxl-inpaint"}
STOCK_ATTENTION = AttnProcessor2_0()
"""One for all, as compiled graphs are guarded by it."""


class Stage:
    """One device and the pipelines on it. Both sides of a comparison are given the same UNet and text encoders."""

    def __init__(self, folder: Path, *, rehearsal: bool) -> None:
        """``folder`` is for small files: tiny pipelines and LoRAs. In a rehearsal all is tiny, in float32, and on the CPU."""
        self.rehearsal = rehearsal
        self.folder = folder
        self.device: Device = CpuDevice() if rehearsal else CudaDevice()
        self._drawn: dict[str, true_size.Drawn] = {}
        if rehearsal:
            torch.set_num_threads(1)  # tiny tensors are slower on several

    # -- models -------------------------------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> Dtype:
        """The precision of both sides."""
        return "float32" if self.rehearsal else "float16"

    def drawn(self, kind: str) -> true_size.Drawn:
        """The pipeline of ``kind``, drawn when first asked for."""
        if kind not in self._drawn:
            self._drawn[kind] = self._tiny(kind) if self.rehearsal else true_size.draw(kind, self.device.kind)
        return self._drawn[kind]

    def parts(self, kind: str) -> Parts:
        """Its modules."""
        return self.drawn(kind).parts

    def card(self, kind: str) -> ModelCard:
        """Its card."""
        return self.drawn(kind).card

    def facts(self, kind: str) -> ModelFacts:
        """Its weight in bytes."""
        return facts_of(self.parts(kind), (self.size(kind) // 8) ** 2)

    def tuning(self, kind: str, *, device: DeviceFacts | None = None, **wishes: Any) -> Tuning:
        """The choice of the worker; without a wish for it nothing is compiled."""
        given = Wishes(**{"dtype": self.dtype, "compile": "off", **wishes})
        return choose(device or self.device_facts(), self.facts(kind), given)

    def device_facts(self) -> DeviceFacts:
        """The device as the worker would read it now."""
        return read_device(self.device.kind)

    @property
    def backend(self) -> str | Callable[..., Any]:
        """The compiler's backend. In a rehearsal graphs are run as they are, which is quick."""
        return "eager" if self.rehearsal else "inductor"

    def engine(self, kind: str, **changes: Any) -> DiffusionEngine:
        """Ours, over the shared modules, tuned by the worker but for ``changes``. Arranges them as its tuning says.

        It begins without the attention that an earlier engine put into the UNet. A rehearsal measures kernels too.
        """
        tuning = replace(self.tuning(kind), **({"attention": "fastest"} if self.rehearsal else {}) | changes)
        self.take_attention_off(kind)
        return DiffusionEngine(
            self.card(kind),
            self.parts(kind),
            lora_files=lambda name: self.folder / f"{name}.safetensors",
            tuning=tuning,
            device=self.device.kind,
            backend=self.backend,
        )

    def shipped(self, kind: str) -> DiffusionEngine:
        """An engine as a worker without a compiler has it when it takes its first job: tuned and warmed up."""
        engine = self.engine(kind)
        engine.warm_up()
        return engine

    @staticmethod
    def unet_call(engine: DiffusionEngine) -> UnetCall:
        """The caller of the UNet of ``engine``."""
        call: UnetCall = engine._unet  # noqa: SLF001 - the one place that reaches into an engine
        return call

    def stock(self, kind: str) -> Any:
        """Theirs, over the same UNet and text encoders."""
        return stock_of(self.parts(kind))

    @contextmanager
    def stock_attention(self, kind: str) -> Iterator[None]:
        """Give the UNet the stock processors, and then again those that an engine has put into it."""
        unet = self.parts(kind).unet
        processors = dict(unet.attn_processors)
        self.take_attention_off(kind)
        try:
            yield
        finally:
            unet.set_attn_processor(processors)

    def take_attention_off(self, kind: str) -> None:
        """Give the UNet the stock processors, which engines over it have replaced by their own."""
        self.parts(kind).unet.set_attn_processor(STOCK_ATTENTION)

    def arrange(self, kind: str, *, channels_last: bool) -> None:
        """Put the UNet's weights into one order or the other, in place: each side is measured in the order that it is used in."""
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.parts(kind).unet.to(memory_format=memory_format)

    def write_lora(self, kind: str, name: str, *, seed: int) -> None:
        """A random LoRA for ``kind`` that its engines find by ``name``."""
        parts = self.parts(kind)
        tiny_pipeline.save_lora({"unet": parts.unet, **parts.text_encoders}, self.folder / f"{name}.safetensors", seed=seed)

    def drop(self, kind: str) -> None:
        """Forget a pipeline: it is drawn anew where it is asked for again."""
        self._drawn.pop(kind, None)
        self.release()

    def release(self) -> None:
        """Let go of graphs and of what no name holds."""
        gc.collect()
        torch._dynamo.reset()  # noqa: SLF001 - has no public name; compiled graphs hold the weights
        self.device.empty()

    # -- pictures -----------------------------------------------------------------------------------------------------------------

    def size(self, kind: str) -> int:
        """Side of a picture in pixels."""
        return tiny_pipeline.NATIVE_SIZE if self.rehearsal else true_size.ARCHITECTURES[kind].native_size

    def steps(self, wanted: int) -> int:
        """As many as wanted; few in a rehearsal."""
        return min(wanted, 3) if self.rehearsal else wanted

    def request(self, kind: str, *, seed: int = 0, steps: int = 25, height: int = 0, width: int = 0, **changes: Any) -> PaintRequest:
        """A picture of the native size, unless told otherwise."""
        return request_of(height or self.size(kind), width or self.size(kind), seed=seed, steps=self.steps(steps), **changes)

    def _tiny(self, kind: str) -> true_size.Drawn:
        directory = self.folder / kind
        tiny_pipeline.build(directory, kind=kind)
        return true_size.Drawn(load_parts(directory, dtype="float32", vae_dtype="float32"), card_for(directory, kind))


def request_of(
    height: int,
    width: int,
    *,
    seed: int,
    steps: int,
    guidance_scale: float = 7.5,
    strength: float = 1.0,
    scheduler: Scheduler = Scheduler.DPMPP_2M_KARRAS,
    loras: tuple[tuple[str, float], ...] = (),
) -> PaintRequest:
    """A random picture, a mask of whole 8-pixel blocks, on which stock and ours agree, and texts, which other seeds do not have.

    The engine keeps what it has encoded; who times it asks for something else each time.
    """
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    blocks = (random.random((height // 8, width // 8)) < 0.4).astype(np.uint8) * 255
    sampling = Sampling(f"a red sofa, number {seed}", f"people, {seed}", steps, guidance_scale, strength, scheduler, loras)
    return PaintRequest(image=coarse.repeat(8, 0).repeat(8, 1), mask=blocks.repeat(8, 0).repeat(8, 1), seed=seed, recipe=sampling)


def facts_of(parts: Parts, latent_area: int) -> ModelFacts:
    """The facts that the worker reads from a directory, counted in memory."""

    def weight(module: Any) -> int:
        numbers: int = sum(parameter.numel() for parameter in module.parameters())
        return 2 * numbers

    return ModelFacts(
        unet_bytes=weight(parts.unet),
        vae_bytes=weight(parts.vae),
        text_encoder_bytes=tuple(map(weight, parts.text_encoders.values())),
        latent_area=latent_area,
        vae_overflows=parts.family.upcasts_vae and getattr(parts.vae.config, "force_upcast", True),
    )


def paint(engine: Engine, requests: Sequence[PaintRequest]) -> list[Pixels]:
    """From requests to pixels, all at once. Raises what failed a row."""
    slots = begin(engine, requests)
    step_all(engine, slots)
    return engine.finish(slots)


class Stepping:
    """Calls step pictures together, for ever: at their end they begin anew, as in a rehearsal they have few steps."""

    def __init__(self, engine: Engine, requests: Sequence[PaintRequest]) -> None:
        self._engine, self._requests = engine, requests
        self.slots = begin(engine, requests)

    def __call__(self) -> None:
        """One step. Raises what failed a row."""
        if all(slot.done for slot in self.slots):
            self.slots = begin(self._engine, self._requests)
        self._engine.step(self.slots)
        for slot in self.slots:
            if slot.error is not None:
                raise slot.error


def step_all(engine: Engine, slots: Sequence[Slot]) -> None:
    """Step ``slots`` together until all are done. Raises what failed a row."""
    while not all(slot.done for slot in slots):
        engine.step([slot for slot in slots if not slot.done])
    for slot in slots:
        if slot.error is not None:
            raise slot.error


def unet_inputs(parts: Parts, rows: int, side: int | tuple[int, int], *, seed: int = 0) -> dict[str, Any]:
    """Random inputs of one UNet call, as its ``forward`` takes them, on the device of its weights."""
    unet, generator = parts.unet, torch.Generator().manual_seed(seed)
    height, width = (side, side) if isinstance(side, int) else side

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(rows, *shape, generator=generator).to(unet.device, unet.dtype)

    config = unet.config
    inputs: dict[str, Any] = {
        "sample": random(config.in_channels, height, width),
        "timestep": torch.full((rows,), 501.0, device=unet.device),
        "encoder_hidden_states": random(parts.tokenizers[0].model_max_length, config.cross_attention_dim),
    }
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        sizes = torch.tensor([[8.0 * height, 8.0 * width, 0, 0, 8.0 * height, 8.0 * width]])
        times = sizes.repeat(rows, 1).to(unet.device, unet.dtype)
        inputs["added_cond_kwargs"] = {"text_embeds": random(pooled), "time_ids": times}
    return inputs


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())
