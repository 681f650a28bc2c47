"""Item 11: what happens where memory is short: XL on smaller cards, halving, the words that errors have, and what a second model sees."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from api_schemas.requests import Priority
from scripts.gpu_facts.device import GIB
from scripts.gpu_facts.findings import Findings, said
from scripts.gpu_facts.stage import INPAINT, Stage, paint
from worker.engines.base import OutOfMemory, PaintRequest, Slot, begin
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.parts import Parts
from worker.scheduler import Scheduler as Batches
from worker.scheduler import Task
from worker.tuning import Offload

CONTEXT_GIB = 0.7
"""Taken of a card by CUDA's context, beside torch's allocations."""
SMALL_CARDS: dict[int, Offload] = {8: "text_encoders", 6: "group"}
"""By GiB, and what is expected to leave the device there."""
SECOND_MODEL_GIB = 24
STEPS = 3
PICTURES = 32
ROOM_PICTURES = 6
"""For which a capped device has room while ``PICTURES`` are stepped."""
TIGHT_GIB = (1.0, 0.3, 0.1, 0.02)
"""Free on the device where errors are provoked, from loose to tight."""


def run(stage: Stage, findings: Findings) -> None:
    """Each under caps of its own; after each all memory is there again."""
    with findings.part("halving"):
        _halving(stage, findings)
    with findings.part("words"):
        _words(stage, findings)
    with findings.part("second_model"):
        _second_model(stage, findings)
    for gib, offload in SMALL_CARDS.items():
        with findings.part(f"sdxl_in_{gib}"):
            _small_card(stage, findings, gib, offload)
    with findings.part("sd15_alone"):
        _alone(stage, findings)


def _alone(stage: Stage, findings: Findings) -> None:
    """The peak of 1.5, weights and one picture, with nothing else on the card."""
    kind = INPAINT["sd15"]
    for other in INPAINT.values():
        stage.drop(other)
    paint(stage.engine(kind), [stage.request(kind, steps=STEPS)])
    findings.add("sd15_alone_peak_gib", stage.device.peak_gib())


def _small_card(stage: Stage, findings: Findings, gib: int, offload: Offload) -> None:
    """One picture of XL by what the tuning chooses there. What may be offloaded is to come from main memory."""
    kind, name = INPAINT["sdxl"], f"sdxl_in_{gib}"
    stage.drop(INPAINT["sd15"])
    _to_main_memory(stage.parts(kind))
    stage.device.empty()
    try:
        with stage.device.capped(gib - CONTEXT_GIB):
            tuning = stage.tuning(kind)
            findings.say(f"{name}_tuning", f"offload {tuning.offload}, tiling {tuning.vae_tiling}: {tuning.reasons['offload']}")
            if stage.rehearsal:
                tuning = replace(tuning, offload=offload, vae_tiling=True)
            engine = stage.engine(kind, offload=tuning.offload, vae_tiling=tuning.vae_tiling)
            paint(engine, [stage.request(kind, steps=STEPS)])
            findings.add(f"{name}_peak_gib", stage.device.peak_gib())
    finally:
        stage.drop(kind)


def _to_main_memory(parts: Parts) -> None:
    for module in (parts.unet, parts.vae, *parts.text_encoders.values()):
        module.to("cpu")


def _halving(stage: Stage, findings: Findings) -> None:
    """More pictures than there is room for: how often the batch is halved, and how many pictures fail."""
    kind = INPAINT["sd15"]
    engine = stage.engine(kind)
    count = 8 if stage.rehearsal else PICTURES
    slots = begin(engine, (stage.request(kind, seed=seed, steps=STEPS) for seed in range(count)))
    batches: Batches[Slot] = Batches({kind: 4.0 * count})
    for number, slot in enumerate(slots):
        batches.add(Task(f"job{number}", kind, Priority.STANDARD, 0.0, slot))
    halvings = 0
    with _room_for_few(stage, engine, begin(engine, (stage.request(kind, steps=STEPS) for _ in range(ROOM_PICTURES)))):
        while (batch := batches.next()) is not None:
            try:
                engine.step(batch.slots)
            except OutOfMemory as error:
                findings.say("halving_words", str(error))
                batches.ran_out(batch)
                halvings += 1
                if len(batch.slots) == 1:
                    break
            batches.collect()
    findings.add("halvings_count", halvings)
    findings.add("halving_failed_pictures_count", sum(slot.error is not None or not slot.done for slot in slots))


@contextmanager
def _room_for_few(stage: Stage, engine: DiffusionEngine, few: Sequence[Slot]) -> Iterator[None]:
    """Room for stepping ``few``, and a little; a CPU has no such bound, so there the UNet says so itself."""
    with ExitStack() as room:
        if stage.rehearsal:
            refusal = stage.unet_call(engine).module.register_forward_pre_hook(_refuse)
            room.callback(refusal.remove)
        else:
            stage.device.empty()
            held_gib = stage.device.allocated_gib()
            engine.step(few)
            took_gib = stage.device.peak_gib() - held_gib
            stage.device.empty()
            room.enter_context(stage.device.capped(held_gib + took_gib + 0.1))
        yield


def _refuse(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    if inputs and inputs[0].shape[0] > 4:
        raise torch.OutOfMemoryError("as if the device were full")


def _words(stage: Stage, findings: Findings) -> None:
    """Every call of the engine on a full device, in new threads: the handles and workspaces of libraries are made anew there.

    A cap would not do: it binds torch alone.
    """
    stage.device.needs_cuda("memory that runs out")
    kind = INPAINT["sd15"]
    engine = stage.engine(kind)
    words: dict[str, bool] = {}
    for tight_gib in TIGHT_GIB:
        slots = begin(engine, (stage.request(kind, seed=seed, steps=1) for seed in range(ROOM_PICTURES)))
        stage.device.empty()
        with ExitStack() as room:
            try:
                room.enter_context(stage.device.filled(tight_gib))
            except torch.OutOfMemoryError:
                findings.say("not_so_tight", f"the device could not be filled up to {tight_gib} GiB")
                return
            for call in _calls(engine, slots, stage.request(kind, seed=100, strength=0.8)):
                _in_another_thread(partial(_note, call, slots, words))
        _tell(findings, words)


def _tell(findings: Findings, words: Mapping[str, bool]) -> None:
    """Note all that was said so far, as the item may end before the next tightness."""
    for number, (text, known) in enumerate(words.items()):
        findings.say(f"words_{number}_{'seen' if known else 'NOT_seen'}", text)
    seen = sum(words.values())
    findings.add_all({"out_of_memory_seen_count": seen, "out_of_memory_not_seen_count": len(words) - seen})


def _calls(engine: DiffusionEngine, slots: Sequence[Slot], request: PaintRequest) -> list[Callable[[], object]]:
    return [lambda: engine.step(slots), lambda: begin(engine, [request]), lambda: engine.finish(slots)]


def _note(call: Callable[[], object], slots: Sequence[Slot], words: dict[str, bool]) -> None:
    """Of what was raised the first words, and whether the engine took it for memory that ran out."""
    try:
        call()
    except OutOfMemory as error:
        words["".join(letter for letter in str(error)[:120] if not letter.isdigit())] = True
    except Exception as error:
        words[said(error)[:160]] = False
    for slot in slots:
        if slot.error is not None:
            words[said(slot.error)[:160]] = False


def _in_another_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def _second_model(stage: Stage, findings: Findings) -> None:
    """Memory that the next model is tuned by after a warm-up, on a card of 24 GiB; and once the cache is given back."""
    kind = INPAINT["sdxl"]
    stage.drop(INPAINT["sd15"])
    engine = stage.engine(kind)
    stage.device.empty()
    with stage.device.capped(SECOND_MODEL_GIB):
        engine.warm_up()
        _seen(stage, findings, "second_model_after_warm_up")
        findings.add("first_model_rows_count", 2 * engine.max_rows)
        stage.device.empty()
        _seen(stage, findings, "second_model_after_empty_cache")


def _seen(stage: Stage, findings: Findings, name: str) -> None:
    facts = stage.device_facts()
    findings.add(f"{name}_free_gib", facts.free_bytes / GIB)
    findings.say(f"{name}_offload", stage.tuning(INPAINT["sdxl"], device=facts).offload)
