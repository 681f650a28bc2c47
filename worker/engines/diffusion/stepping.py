"""One step of all rows at once: a handful of calls of the device, as many for eight pictures as for one, and no wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from weakref import ReferenceType, ref

import torch

from api_schemas.errors import EngineFailed
from worker.engines.diffusion.sampler_tables import WIDTH
from worker.engines.diffusion.slot import DiffusionSlot


@dataclass(frozen=True, eq=False)
class StepNumbers:
    """All numbers of one step, ``float32`` on the device, with a row for each slot."""

    timesteps: torch.Tensor
    """``(rows,)``."""
    shown: torch.Tensor
    """``(rows, 1, WIDTH)``."""
    step: torch.Tensor
    """``(rows, WIDTH, WIDTH + 2)``; of the state, the output and the noise."""
    known: torch.Tensor
    """``(rows, 2, 1, 1, 1)``; of what is kept and its noise."""
    begins: torch.Tensor
    """``(rows, 1, 1, 1)``; 1 before the first step, where nothing has been kept yet."""
    guidance: torch.Tensor
    """``(rows, 1, 1, 1)``."""

    @classmethod
    def of(cls, slots: Sequence[DiffusionSlot], device: torch.device) -> Self:
        """Those of each slot's next step, in one copy to the device."""
        table = torch.stack([slot.table.rows[slot.position] for slot in slots])
        own = torch.tensor([[slot.position == 0, slot.guidance_scale] for slot in slots])
        table = torch.cat([own, table], dim=1)
        if device.type == "cuda":
            table = table.pin_memory()
        begins, guidance, timesteps, known, shown, step = table.to(device, non_blocking=True).split(  # type: ignore[no-untyped-call]
            [1, 1, 1, 2, WIDTH, WIDTH * (WIDTH + 2)], dim=1
        )
        return cls(
            timesteps=timesteps[:, 0],
            shown=shown[:, None],
            step=step.view(-1, WIDTH, WIDTH + 2),
            known=known.view(-1, 2, 1, 1, 1),
            begins=begins.view(-1, 1, 1, 1),
            guidance=guidance.view(-1, 1, 1, 1),
        )


def shown(slots: Sequence[DiffusionSlot], numbers: StepNumbers, states: torch.Tensor) -> torch.Tensor:
    """What the UNet is shown of ``states (rows, WIDTH, C, h, w)``: ``(rows, C, h, w)`` in its precision, with what is kept in its place."""
    rows, _, *shape = states.shape
    latents = torch.bmm(numbers.shown, states.flatten(2)).view(rows, *shape)
    kept = [slot.kept for slot in slots if slot.kept is not None]
    if kept:
        picture, noise = torch.cat([each.image_latents for each in kept]), torch.cat([each.noise for each in kept])
        known = numbers.known[:, 0] * picture + numbers.known[:, 1] * noise
        painted = torch.maximum(torch.cat([slot.mask_latents for slot in slots]), numbers.begins)
        latents = torch.where(painted > 0, latents, known)
    return latents.to(slots[0].mask_latents.dtype)


def advanced(slots: Sequence[DiffusionSlot], numbers: StepNumbers, states: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """The states after a step to which the model said ``output (rows, C, h, w)``."""
    given = [states, output[:, None]]
    step = numbers.step
    if any(slot.table.draws for slot in slots):
        dtype = slots[0].mask_latents.dtype
        still = torch.zeros(states.shape[2:], dtype=dtype)
        noise = torch.stack([slot.noise(dtype) if slot.table.draws else still for slot in slots])
        if states.device.type == "cuda":
            noise = noise.pin_memory()
        given.append(noise.to(states.device, non_blocking=True)[:, None].float())
    else:
        step = step[:, :, : WIDTH + 1]
    return torch.bmm(step, torch.cat(given, dim=1).flatten(2)).view_as(states)


class Finite:
    """Looks one call late whether rows were finite: by then the device has long said so."""

    def __init__(self) -> None:
        self._slots: list[ReferenceType[DiffusionSlot]] = []
        self._flags = torch.ones(0, dtype=torch.bool)
        self._copied: torch.cuda.Event | None = None

    def watch(self, slots: Sequence[DiffusionSlot], states: torch.Tensor) -> None:
        """Ask of the ``states`` to which a step of ``slots`` led. It keeps none of them: one that leaves is gone from the device."""
        flags = torch.isfinite(states).flatten(1).all(dim=1)
        self._slots, self._flags = [ref(slot) for slot in slots], flags.to("cpu", non_blocking=True)
        if flags.device.type == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def look(self) -> None:
        """Give the rows of the last step that were not finite their error."""
        if self._copied is not None:
            self._copied.synchronize()  # of the last step: the device is at most one ahead
        for reference, is_finite in zip(self._slots, self._flags.tolist(), strict=True):
            slot = reference()
            if slot is not None and not is_finite and slot.error is None:
                slot.error = EngineFailed(f"the latents were not finite after step {slot.position} of {slot.steps}")
        self._slots, self._flags, self._copied = [], self._flags[:0], None
