"""Expectations of a GPU before one was measured, each beside the figure that answers it.

The estimates are for an H100 unless they say otherwise: made from counts of operators and from published figures, never from a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Figures = Mapping[str, float | None]
"""Of all items of one run."""
H100, A100 = "H100", "A100"


@dataclass(frozen=True)
class Estimate:
    """One line of the table."""

    group: str
    what: str
    expected: str
    measured: Callable[[Figures], str]
    """The cell. Raises ``KeyError`` or ``TypeError`` where a figure is missing, and the cell is then empty."""
    card: str = H100
    """Part of the name of the cards that it is about."""
    items: tuple[int, ...] = ()
    """Whose figures it takes."""


def _value(name: str, unit: str, *, digits: int = 2) -> Callable[[Figures], str]:
    return lambda figures: f"{_known(figures, name):.{digits}f} {unit}"


def _ms(name: str) -> Callable[[Figures], str]:
    return _value(name, "ms", digits=1)


def _seconds(name: str) -> Callable[[Figures], str]:
    return _value(name, "s")


def _difference(more: str, less: str, unit: str = "ms") -> Callable[[Figures], str]:
    return lambda figures: f"{_known(figures, more) - _known(figures, less):.1f} {unit}"


def _from_to(first: str, second: str, unit: str = "ms") -> Callable[[Figures], str]:
    return lambda figures: f"{_known(figures, first):.1f} → {_known(figures, second):.1f} {unit}"


def _saved(before: str, after: str) -> Callable[[Figures], str]:
    return lambda figures: f"{1 - _known(figures, after) / _known(figures, before):.0%} less"


def _known(figures: Figures, name: str) -> float:
    value = figures[name]
    if value is None:
        raise TypeError(f"{name} was not finite")
    return value


def _fastest(family: str) -> Callable[[Figures], str]:
    """The fastest of what was measured, compiled or not."""

    def measured(figures: Figures) -> str:
        known = [value for mode in ("eager", "compiled") if (value := figures.get(f"{family}_outfill_{mode}_picture_s")) is not None]
        if not known:
            raise KeyError(family)
        return f"{min(known):.2f} s"

    return measured


def _faster_attention(family: str) -> Callable[[Figures], str]:
    """The share of a step that the fastest kernel saves against flash, and its name."""

    def measured(figures: Figures) -> str:
        flash = _known(figures, f"{family}_rows_2_flash_ms")
        others = {name: figures.get(f"{family}_rows_2_{name}_ms") for name in ("cudnn", "efficient", "xformers")}
        best, name = min((value, name) for name, value in {"flash": flash, **others}.items() if value is not None)
        return f"{1 - best / flash:.0%} ({name})"

    return measured


def _vae_saved(figures: Figures) -> str:
    """Two encodes and a decode of XL in float32 as torch begins, less the same in bfloat16."""
    seconds = [
        _known(figures, f"sdxl_vae_{precision}_encode_2_ms") + _known(figures, f"sdxl_vae_{precision}_decode_1_ms")
        for precision in ("float32_as_torch_begins", "bfloat16")
    ]
    return f"{(seconds[0] - seconds[1]) / 1e3:.2f} s"


def _vae_levels(figures: Figures) -> str:
    mean, most = (_known(figures, f"sdxl_vae_bfloat16_off_{which}_levels") for which in ("mean", "p999"))
    return f"mean {mean:.2f}, p99.9 {most:.1f}"


def _order_saved(figures: Figures) -> str:
    saved = 1 - _known(figures, "sd15_rows_2_channels_last_ms") / _known(figures, "sd15_rows_2_contiguous_ms")
    return f"{saved:+.0%} with channels last"


def _lora_left(figures: Figures) -> str:
    return f"{_known(figures, 'sdxl_lora_eager_step_after_ms') - _known(figures, 'sdxl_lora_eager_step_before_ms'):.1f} ms a step"


def _lora_compiled(figures: Figures) -> str:
    mode = "compiled" if _known(figures, "sd15_lora_compiled_after_runs_compiled_bool") else "no longer compiled"
    return f"{_known(figures, 'sd15_lora_compiled_after_over_before_ratio'):.2f} × ({mode})"


def _prepare_and_finish(figures: Figures) -> str:
    return f"{(_known(figures, 'sdxl_prepare_ms') + _known(figures, 'sdxl_finish_ms')) / 1e3:.2f} s"


def _first_call(which: str) -> Callable[[Figures], str]:
    return lambda figures: f"{_known(figures, f'sdxl_{which}_first_ms') - _known(figures, f'sdxl_{which}_second_ms'):.0f} ms more"


PICTURE, STEP, GAIN, HOST = "One picture, guided", "Where a step's time goes", "What changes would gain", "What threads and jobs cost"

ESTIMATES: tuple[Estimate, ...] = (
    Estimate(PICTURE, "1.5, 50 steps, uncompiled", "1.05 s", _seconds("sd15_outfill_eager_picture_s"), H100, (5,)),
    Estimate(PICTURE, "1.5, 50 steps, compiled", "0.60-0.75 s", _seconds("sd15_outfill_compiled_picture_s"), H100, (10,)),
    Estimate(PICTURE, "1.5, 50 steps, the fastest of ours; the goal", "0.40-0.45 s", _fastest("sd15"), H100, (5, 10)),
    Estimate(PICTURE, "1.5, 50 steps, stock eager", "0.92 s (published)", _seconds("sd15_stock_eager_picture_s"), H100, (5,)),
    Estimate(PICTURE, "1.5, 50 steps, stock compiled", "0.76 s (published)", _seconds("sd15_stock_compiled_picture_s"), H100, (10,)),
    Estimate(PICTURE, "1.5, 50 steps, uncompiled", "1.65 s", _seconds("sd15_outfill_eager_picture_s"), A100, (5,)),
    Estimate(PICTURE, "1.5, 50 steps, compiled", "1.10 s", _seconds("sd15_outfill_compiled_picture_s"), A100, (10,)),
    Estimate(PICTURE, "1.5, 50 steps, the fastest of ours; the goal", "0.72-0.80 s", _fastest("sd15"), A100, (5, 10)),
    Estimate(PICTURE, "1.5, 50 steps, stock eager", "1.60 s (published)", _seconds("sd15_stock_eager_picture_s"), A100, (5,)),
    Estimate(PICTURE, "1.5, 50 steps, stock compiled", "1.06 s (published)", _seconds("sd15_stock_compiled_picture_s"), A100, (10,)),
    Estimate(PICTURE, "XL, 30 steps, uncompiled", "2.0-2.2 s", _seconds("sdxl_outfill_eager_picture_s"), H100, (5,)),
    Estimate(PICTURE, "XL, 30 steps, compiled", "1.7-1.8 s", _seconds("sdxl_outfill_compiled_picture_s"), H100, (10,)),
    Estimate(PICTURE, "XL, 30 steps, the fastest of ours; the goal", "1.2-1.35 s", _fastest("sdxl"), H100, (5, 10)),
    Estimate(PICTURE, "XL, 30 steps, stock eager", "2.50 s (published)", _seconds("sdxl_stock_eager_picture_s"), H100, (5,)),
    Estimate(PICTURE, "1.5, a step of 8 at once, eager", "about 50 ms", _ms("sd15_8_at_once_step_ms"), H100, (5,)),
    Estimate(PICTURE, "1.5, 8 at once, eager", "3.1 pictures a second", _value("sd15_8_at_once_pictures_per_s", "a second"), H100, (5,)),
    Estimate(PICTURE, "1.5, UNet of 16 rows (8 pictures), blocks compiled", "42 ms", _ms("sd15_regional_rows_16_ms"), H100, (10,)),
    Estimate(PICTURE, "… and under a graph; the goal", "37 ms", _ms("sd15_regional_rows_16_replay_ms"), H100, (10,)),
    Estimate(STEP, "1.5, a step of one picture, eager", "19-20 ms", _ms("sd15_1_slots_dpmpp_2m_karras_step_ms"), H100, (4,)),
    Estimate(STEP, "… in which the device is busy", "7-9 ms", _ms("sd15_1_slots_dpmpp_2m_karras_device_busy_ms"), H100, (4,)),
    Estimate(STEP, "XL, a step of one picture, eager", "52-58 ms", _ms("sdxl_1_slots_dpmpp_2m_karras_step_ms"), H100, (4,)),
    Estimate(STEP, "… in which the device is busy", "45 ms", _ms("sdxl_1_slots_dpmpp_2m_karras_device_busy_ms"), H100, (4,)),
    Estimate(STEP, "1.5, kernels of a step", "about 1,150", _value("sd15_1_slots_dpmpp_2m_karras_kernels_count", "", digits=0), H100, (4,)),
    Estimate(STEP, "XL, kernels of a step", "about 2,300", _value("sdxl_1_slots_dpmpp_2m_karras_kernels_count", "", digits=0), H100, (4,)),
    Estimate(
        STEP,
        "1.5, 8 pictures: all of a step beside the UNet",
        "1.9-4 ms",
        _difference("sd15_8_slots_dpmpp_2m_karras_step_ms", "sd15_8_slots_unet_ms"),
        H100,
        (4,),
    ),
    Estimate(
        STEP,
        "1.5, 8 pictures: UniPC over DPM++ 2M, a step",
        "7-10 ms",
        _difference("sd15_8_slots_unipc_step_ms", "sd15_8_slots_dpmpp_2m_karras_step_ms"),
        H100,
        (4,),
    ),
    Estimate(
        STEP, "1.5, 8 pictures: the device idle in a step", "0.7-2 ms", _ms("sd15_8_slots_dpmpp_2m_karras_device_idle_ms"), H100, (4,)
    ),
    Estimate(GAIN, "attention by measurement, of a step of 1.5", "0-15 %", _faster_attention("sd15"), H100, (3,)),
    Estimate(GAIN, "attention by measurement, of a step of XL", "0-15 %", _faster_attention("sdxl"), H100, (3,)),
    Estimate(
        GAIN,
        "a CUDA graph of the eager UNet of 1.5, 2 rows",
        "19 → 10-12 ms",
        _from_to("sd15_rows_2_eager_ms", "sd15_rows_2_replay_ms"),
        H100,
        (6,),
    ),
    Estimate(
        GAIN,
        "a CUDA graph of the eager UNet of XL, 2 rows",
        "50 → 45 ms",
        _from_to("sdxl_rows_2_eager_ms", "sdxl_rows_2_replay_ms"),
        H100,
        (6,),
    ),
    Estimate(GAIN, "recording one graph of 1.5", "about 0.5 s", _seconds("sd15_rows_2_record_s"), H100, (6,)),
    Estimate(GAIN, "channels last without compiling, 1.5", "not estimated", _order_saved, H100, (7,)),
    Estimate(
        GAIN,
        "compiled blocks under a graph, 1.5, 2 rows, of the device's time",
        "20-30 % less",
        _saved("sd15_rows_2_replay_ms", "sd15_regional_rows_2_replay_ms"),
        H100,
        (6, 10),
    ),
    Estimate(GAIN, "compiling block by block, XL", "9.6 s (published)", _seconds("sdxl_regional_rows_2_first_call_s"), H100, (10,)),
    Estimate(GAIN, "compiling whole, XL", "67 s (published)", _seconds("sdxl_compiled_whole_first_call_s"), H100, (10,)),
    Estimate(GAIN, "XL's VAE (random) in bfloat16, a job", "0.3 s", _vae_saved, H100, (8,)),
    Estimate(GAIN, "… off float32, levels of 255; says nothing of a real VAE's range", "mean ≤ 0.3, p99.9 ≤ 3", _vae_levels, H100, (8,)),
    Estimate(HOST, "XL, prepare and finish of a job", "about 0.4 s", _prepare_and_finish, H100, (8,)),
    Estimate(HOST, "… of which prepare's work on the host", "0.07-0.14 s", _ms("sdxl_prepare_host_ms"), H100, (8,)),
    Estimate(HOST, "first call in another thread, XL", "10-1,000 ms more", _first_call("another_thread"), H100, (9,)),
    Estimate(HOST, "first call of a new number of rows, XL", "10-1,000 ms more", _first_call("new_rows"), H100, (9,)),
    Estimate(HOST, "first call of a new shape, XL", "10-1,000 ms more", _first_call("new_shape"), H100, (9,)),
    Estimate(HOST, "what a LoRA leaves behind in XL", "5-10 ms a step", _lora_left, H100, (12,)),
    Estimate(HOST, "switching LoRAs of XL", "100-300 ms", _ms("sdxl_lora_eager_switch_ms"), H100, (12,)),
    Estimate(HOST, "a LoRA's first use, XL", "1-3 s", _seconds("sdxl_lora_eager_first_use_s"), H100, (12,)),
    Estimate(
        HOST,
        "1.5 compiled, a step after a LoRA over one before",
        "not estimated",
        _lora_compiled,
        H100,
        (12,),
    ),
    Estimate(
        HOST,
        "engine busy while jobs are painted",
        "≥ 95 % (goal)",
        lambda figures: f"{_known(figures, 'engine_busy_share'):.0%}",
        "",
        (13,),
    ),
    Estimate(
        HOST,
        "a step beside intake of 12 megapixels, over alone",
        "not estimated",
        _value("single_slot_step_over_alone_ratio", "×"),
        "",
        (13,),
    ),
)
