"""Stable Diffusion with continuous batching.

Slots join and leave between denoising steps. The rows of one UNet call may differ in everything but the model, its adapters and the latent
shape; each slot has its own sampler, generator and position. The maths is that of ``StableDiffusionInpaintPipeline`` and
``StableDiffusionXLInpaintPipeline`` (diffusers 0.42), which the tests hold it against.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Self, cast

import structlog
import torch

from api_schemas.errors import EngineFailed
from api_schemas.models import ModelCard
from worker.engines.base import DeviceBroken, OutOfMemory, PaintRequest, Pixels, Prepared, Reading, Slot, WarmUp
from worker.engines.device import use_device
from worker.engines.diffusion.card import lora_file
from worker.engines.diffusion.chunks import PromptReader
from worker.engines.diffusion.fastest_attention import measure_attention
from worker.engines.diffusion.inputs import Drawn, InputMaker, Inputs
from worker.engines.diffusion.kernels import attention_kernels, ready_profiler
from worker.engines.diffusion.lora import LoraAdapters, LoraUses
from worker.engines.diffusion.parts import Parts, load_parts
from worker.engines.diffusion.pictures import ImageEncoder, Posterior, decode_latents
from worker.engines.diffusion.previews import Projection
from worker.engines.diffusion.prompts import PromptEmbeds, PromptEncoder
from worker.engines.diffusion.residency import apply, lanes_for, warm_up
from worker.engines.diffusion.sampler_tables import SamplerTables
from worker.engines.diffusion.slot import DiffusionSlot, Kept
from worker.engines.diffusion.stepping import Finite, StepNumbers, advanced, shown
from worker.engines.diffusion.unet_call import blank_call, blank_inputs
from worker.engines.out_of_memory import is_out_of_memory
from worker.tuning import PLAIN, Tuning

_log = structlog.get_logger(__name__)


class DiffusionEngine:
    """A resident pipeline of any family. Called from one thread only, but for ``read`` and ``prepare``."""

    def __init__(
        self,
        card: ModelCard,
        parts: Parts,
        *,
        lora_files: Callable[[str], Path],
        kept_bytes: int = 0,
        tuning: Tuning,
        device: str,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        """Arrange ``parts`` as ``tuning`` says; ``load`` reads them from a directory.

        ``kept_bytes`` of the device's memory are left for adapters, those of its other models too; ``backend`` is what compiles.
        """
        use_device(device)
        ready_profiler()
        self.card = card
        self.reentrant = False
        self.tuning = tuning
        self.dtype: str | None = tuning.dtype
        self.max_rows = 8
        self.budget = 2.0 * self.max_rows
        self._device = device
        self._parts = apply(parts, tuning, device, backend=backend)
        self._unet = self._parts.unet
        self._vae = parts.vae
        self._encoder = ImageEncoder(parts.vae, dtype=parts.unet.dtype)
        self._inpaints = parts.unet.config.in_channels > parts.vae.config.latent_channels
        self._reader = PromptReader(parts.tokenizers, parts.vocabulary)
        self._prompts = PromptEncoder(self._parts)
        self._loras = LoraAdapters(parts.unet, parts.text_encoders, lora_files)
        self._kept_bytes = kept_bytes
        self._maker = InputMaker(
            card,
            self._reader,
            SamplerTables(parts.sampler_config),
            self._encoder,
            channels=parts.vae.config.latent_channels,
            dtype=parts.unet.dtype,
            inpaints=self._inpaints,
        )
        self._finite = Finite()
        self._projection: Projection | None = None

    @classmethod
    def load(cls, path: Path, card: ModelCard, *, device: str = "cpu", tuning: Tuning = PLAIN, **options: Any) -> Self:
        """Load the pipeline in directory ``path``: safetensors only, nothing from the network, no code of the model's.

        There is no safety checker. Raises ``OSError`` where a file is missing; ``card_for`` is what explains an unsupported directory.
        """
        parts = load_parts(path, dtype=tuning.dtype, vae_dtype=tuning.vae_dtype)
        return cls(card, parts, lora_files=partial(lora_file, path), tuning=tuning, device=device, **options)

    @property
    def calls(self) -> Counter[str]:
        """Calls of the UNet so far, by mode."""
        calls: Counter[str] = self._unet.calls
        return calls

    def warm_up(self) -> WarmUp:
        """Choose attention kernels, compile where the tuning says so, measure ``budget`` (UNet rows of native size), see which kernels run.

        Raises ``OutOfMemory`` where not even one guided picture fits, and ``TuningRefused`` where compiling fails that must not.
        """
        use_device(self._device)  # as another thread may have loaded the model
        side, tokens = (self.card.native_size or 512) // self._encoder.factor, self._parts.tokenizers[0].model_max_length
        call = blank_call(self._unet, side, side, tokens=tokens)
        with self._device_memory():
            by_shape = self._choose_attention(side, tokens) if self.tuning.attention == "fastest" else {}
            measured, lanes = warm_up(call, self._device, kept_bytes=self._kept_bytes), None
            with torch.inference_mode():
                kernels = attention_kernels(partial(call, 2))
                self._project()
            self._empty_cache()  # of what the largest call took: libraries that do not ask torch make their handles later
            if self._unet.device.type == "cpu" and not self._unet.is_compiled:
                lanes, measured = lanes_for(call, self._unet.divide, measured, most=torch.get_num_threads())
            self.budget, self.max_rows = float(measured.rows), max(measured.rows // 2, 1)
        found = WarmUp(
            kernels=kernels,
            kernels_by_shape=by_shape,
            compiled=self._unet.is_compiled,
            compile_failure=self._unet.compile_failure or self.tuning.compile_fault,
            row_s=measured.row_s,
        )
        table = [asdict(row) for row in measured.table]
        _log.info("model_warm", model=self.card.id, rows=measured.rows, lanes=lanes.count if lanes else 1, measured=table, **asdict(found))
        return found

    def _choose_attention(self, side: int, tokens: int) -> dict[str, str]:
        """Let the UNet use the kernels that are the fastest for its shapes at the native size; they are returned by shape."""
        inputs = blank_inputs(self._unet, 2, side, side, tokens=tokens)
        with torch.inference_mode():
            fastest = measure_attention(lambda: self._unet(**inputs), device=self._unet.device, dtype=self._unet.dtype)
        self._unet.prefer(fastest)
        return {"x".join(map(str, shape)): kernel for shape, kernel in fastest.by_shape.items()}

    def read(self, prompt: str, *, names_product: bool) -> Reading:
        """Tell what the model does not read of ``prompt``. Called from any thread."""
        return self._reader.read(prompt, names_product=names_product)

    def prepare(self, request: PaintRequest) -> Inputs:
        """Read the prompts, make tensors, draw noise. Called from any thread.

        Raises ``Invalid`` where strength leaves no step, ``TypeError`` without a ``Sampling`` recipe, and ``ValueError`` for a picture whose
        sides are not multiples of ``card.size_multiple``.
        """
        return self._maker.inputs(request)

    def start(self, prepared: Sequence[Prepared]) -> list[Slot]:
        """Encode all texts, and then all pictures, up to ``max_rows`` of one shape at a time.

        Raises ``EngineFailed`` for a LoRA that cannot be used, and ``OutOfMemory``; no slot was made then.
        """
        inputs = [cast(Inputs, each) for each in prepared]
        with self._device_memory():
            embeds = self._encoded_texts(inputs)
            with torch.inference_mode():
                pictures = (picture for each in inputs for picture in each.pictures)
                posteriors = self._encoder.posteriors(pictures, rows=self.max_rows)
                return [self._slot(each, embeds[each.loras], posteriors) for each in inputs]

    def _encoded_texts(self, inputs: Sequence[Inputs]) -> dict[LoraUses, dict[str, PromptEmbeds]]:
        """The embeddings of all prompts, by the LoRAs that are active. Not under inference_mode: peft marks parameters as trainable or not."""
        embeds: dict[LoraUses, dict[str, PromptEmbeds]] = {}
        for loras in {each.loras for each in inputs}:
            self._loras.activate(loras)
            embeds[loras] = self._prompts.encode((text for each in inputs if each.loras == loras for text in each.texts), loras)
        return embeds

    def _slot(self, inputs: Inputs, embeds: Mapping[str, PromptEmbeds], posteriors: Mapping[bytes, Posterior]) -> DiffusionSlot:
        request, table, sampling, device = inputs.request, inputs.table, inputs.sampling, self._unet.device

        def latents(drawn: Drawn | None) -> torch.Tensor | None:
            return None if drawn is None else self._encoder.latents(posteriors[drawn.picture.key], drawn.noise)

        image, noise = latents(inputs.image), inputs.noise.to(device)
        of_picture, of_noise = table.begin.tolist()  # ``StableDiffusionInpaintPipeline.prepare_latents``
        begin = of_noise * noise.float()
        if image is not None:
            begin = begin + of_picture * image.float()
        prompt, negative_prompt = embeds[inputs.prompt.prompt], None
        if inputs.negative_prompt is not None:
            text = inputs.negative_prompt.prompt
            negative_prompt = self._prompts.negative(text, embeds[text])
        tokens = max(prompt.tokens, negative_prompt.tokens if negative_prompt else 0)
        return DiffusionSlot(
            request=request,
            steps=len(table.rows),
            batch_key=(self.card.id, tuple(begin.shape[1:]), inputs.loras, tokens if self._keeps_lengths_apart else None),
            cost=(2 if negative_prompt else 1) * request.mask.size / (self.card.native_size or 512) ** 2,
            loras=inputs.loras,
            table=table,
            generator=inputs.generator,
            state=table.start.to(device).view(-1, 1, 1, 1) * begin,
            mask_latents=inputs.mask_latents.to(device, self._unet.dtype),
            masked_image_latents=latents(inputs.masked_image),
            kept=None if self._inpaints or image is None else Kept(image, noise),
            time_ids=torch.tensor([[*request.mask.shape, 0, 0, *request.mask.shape]], dtype=self._unet.dtype, device=device),
            prompt=prompt,
            negative_prompt=negative_prompt,
            guidance_scale=sampling.guidance_scale,
        )

    def step(self, slots: Sequence[Slot]) -> None:
        """Advance every slot by one step, in one UNet call.

        A row whose latents are no longer finite gets an ``EngineFailed`` as its error, at the latest in the next call of ``step`` or ``finish``,
        since nobody waits here for the device; the others go on. Raises ``OutOfMemory`` with all slots as they were, so that the step can be
        tried again with fewer, and ``EngineFailed`` where a LoRA that had made room for others cannot be read again.
        """
        with self._device_memory():
            self._finite.look()
            rows = [cast(DiffusionSlot, slot) for slot in slots if not slot.done]
            rows.sort(key=lambda slot: slot.negative_prompt is None)
            if not rows:
                return
            # Not under inference_mode: peft marks parameters as trainable or not.
            self._loras.activate(rows[0].loras)
            with torch.inference_mode():
                numbers = StepNumbers.of(rows, self._unet.device)
                states = torch.stack([slot.state for slot in rows])
                output = self._predict_noise(rows, numbers, shown(rows, numbers, states))
                states = advanced(rows, numbers, states, output)
                self._finite.watch(rows, states)
                for slot, state in zip(rows, states, strict=True):
                    slot.advance(state)

    def finish(self, slots: Sequence[Slot]) -> list[Pixels]:
        """Decode, up to ``max_rows`` of one shape at a time. Raises ``OutOfMemory``.

        A row whose decoded pixels are not finite gets an ``EngineFailed`` as its error; its pixels are then of no use.
        """
        pixels: list[Pixels] = []
        with self._device_memory(), torch.inference_mode():
            self._finite.look()
            for batch in self._decodable([cast(DiffusionSlot, slot) for slot in slots]):
                decoded, finite = decode_latents(self._vae, torch.cat([slot.latents for slot in batch]))
                pixels.extend(decoded)
                for slot, is_finite in zip(batch, finite, strict=True):
                    if not is_finite and slot.error is None:
                        slot.error = EngineFailed("the decoded picture is not finite")
        return pixels

    def preview(self, slot: Slot) -> Pixels:
        """What the latents of ``slot`` look like, ``uint8 (h, w, 3)`` at their own size: a linear projection, no decode."""
        slot = cast(DiffusionSlot, slot)
        with self._device_memory(), torch.inference_mode():
            # Some samplers' latents grow with their noise; the UNet's input is of one scale.
            latents = slot.latents if slot.done else shown([slot], StepNumbers.of([slot], self._unet.device), slot.state[None])
            return self._project().picture(latents)

    def _project(self) -> Projection:
        """The map for previews; fitted in the engine's own thread, as all work on the device."""
        if self._projection is None:
            self._projection = Projection.fit(self._encoder)
        return self._projection

    @contextmanager
    def _device_memory(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            message = str(error)
            if not is_out_of_memory(error):
                if isinstance(error, torch.AcceleratorError):
                    raise DeviceBroken(message) from error
                raise
            traceback.clear_frames(error.__traceback__)  # they hold what took the room
            self._empty_cache()
            raise OutOfMemory(message) from None

    def _empty_cache(self) -> None:
        if self._unet.device.type != "cuda":
            return
        try:
            torch.cuda.empty_cache()
        except torch.AcceleratorError as error:  # a broken device may first look like a full one
            raise DeviceBroken(str(error)) from error

    @property
    def _keeps_lengths_apart(self) -> bool:
        """Tell whether rows with contexts of several lengths may not share a call.

        A UNet that pools the text itself counts the pooled token once, and a compiled one has graphs for prompts of one chunk alone: the
        longest would take them from all.
        """
        return bool(self._unet.config.addition_embed_type == "text" or self._unet.is_compiled)

    def _predict_noise(self, slots: Sequence[DiffusionSlot], numbers: StepNumbers, sample: torch.Tensor) -> torch.Tensor:
        """One UNet call for all rows, then classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) where it is on.

        The slots with guidance come first, so that the rows without the prompt repeat the first ones. ``float32``.
        """
        negative = [slot.negative_prompt for slot in slots if slot.negative_prompt is not None]
        prompts, guided = [*(slot.prompt for slot in slots), *negative], len(negative)
        if self._inpaints:
            masks, pictures = [slot.mask_latents for slot in slots], [slot.masked_image_latents for slot in slots]
            sample = torch.cat([sample, torch.cat(masks), torch.cat([each for each in pictures if each is not None])], dim=1)
        tokens = max(prompt.tokens for prompt in prompts)
        predicted: torch.Tensor = self._unet(
            torch.cat([sample, sample[:guided]]),
            torch.cat([numbers.timesteps, numbers.timesteps[:guided]]),
            encoder_hidden_states=torch.cat([prompt.repeated(tokens) for prompt in prompts]),
            added_cond_kwargs=self._added_conditions(slots[0], prompts),
            repeated=guided,
            adapted=bool(slots[0].loras),
        )[0].float()
        text, without = predicted[: len(slots)], predicted[len(slots) :]
        return torch.cat([torch.lerp(without, text[:guided], numbers.guidance[:guided]), text[guided:]])

    def _added_conditions(self, slot: DiffusionSlot, prompts: Sequence[PromptEmbeds]) -> dict[str, torch.Tensor] | None:
        """SDXL's micro-conditioning (Podell et al. 2023, arXiv 2307.01952): original size, crop and target size, of which rows are equal."""
        pooled = [prompt.pooled for prompt in prompts if prompt.pooled is not None]
        if not pooled:
            return None
        return {"text_embeds": torch.cat(pooled), "time_ids": slot.time_ids.expand(len(pooled), -1)}

    def _decodable(self, slots: Iterable[DiffusionSlot]) -> Iterator[list[DiffusionSlot]]:
        for _, group in groupby(slots, key=lambda slot: slot.latents.shape):
            batch = list(group)
            yield from (batch[start : start + self.max_rows] for start in range(0, len(batch), self.max_rows))
