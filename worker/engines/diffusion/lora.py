"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685), added to a model by name and taken off again without a trace."""

from __future__ import annotations

import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks import group_offloading
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from diffusers.utils import peft_utils
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open

from api_schemas.errors import EngineFailed
from worker.engines.diffusion.card import RESIDENT_LORAS
from worker.engines.out_of_memory import is_out_of_memory

# It reports the weights of the adapters that are there already as "newly initialized", which they are not; ``_load`` counts for itself.
logging.getLogger("transformers.integrations.peft").setLevel(logging.ERROR)
_set_enabled: Callable[[Any, bool], None] = peft_utils.set_adapter_layers
_set_weights: Callable[[Any, list[str], list[float]], None] = peft_utils.set_weights_and_activate_adapters
regroup: Callable[[Any], None] = group_offloading._maybe_remove_and_reapply_group_offloading  # noqa: SLF001 - has no public name
"""Where groups of a module's layers are offloaded, they must know of new ones; else it does nothing."""
LoraUses = tuple[tuple[str, float], ...]
"""Names and weights, sorted by name; no name twice."""


@dataclass(frozen=True, eq=False)
class _Branched:
    """A layer with branches for adapters, and its place in the model."""

    parent: Any
    name: str
    layer: Any


class LoraAdapters:
    """The adapters of one model. They are read when first used; those used longest ago make room for others.

    An adapter is a separate branch beside the layers that it changes, never merged into them: without it, the layer computes what it
    computed before, to the bit. While none is active, the layers that carry the branches are out of the model: each costs every call
    some 10 µs, and a compiled graph does not know them.
    """

    def __init__(self, unet: Any, text_encoders: Mapping[str, Any], file: Callable[[str], Path], *, capacity: int = RESIDENT_LORAS) -> None:
        """``text_encoders`` are by the prefix that their weights have in a file; ``file`` is where the weights of a name lie.

        ``capacity`` adapters stay in memory, and no fewer than one call to ``activate`` asks for.
        """
        self._models: dict[str, Any] = {"unet": unet, **text_encoders}
        self._file = file
        self._capacity = capacity
        self._resident: OrderedDict[str, str] = OrderedDict()
        """Name to the adapter's name inside the model, which must not hold a dot."""
        self._active: LoraUses | None = ()
        self._loaded = 0
        self._taken_out: list[_Branched] = []

    def activate(self, uses: LoraUses) -> None:
        """Make the model compute with exactly these. Costs nothing where they are active already.

        Raises ``EngineFailed``, which names the LoRA, where a file is missing, broken or made for another model; the model then has no
        part of it.
        """
        if uses == self._active:
            return
        self._active = None  # whatever happens below, the next call sets all anew
        self._put_in()
        with warnings.catch_warnings():
            # peft warns of a second adapter in one model, and of the loss of one that was active: both are meant.
            warnings.filterwarnings("ignore", module="peft")
            for name, _ in uses:
                self._require(name)
            self._evict(beside={name for name, _ in uses})
        for model in self._models.values():
            _set_enabled(model, bool(uses))
            if uses:
                _set_weights(model, [self._resident[name] for name, _ in uses], [weight for _, weight in uses])
        if not uses:
            self._take_out()
        self._active = uses

    def _take_out(self) -> None:
        for model in self._models.values():
            self._taken_out += [
                _Branched(parent, name, layer)
                for parent in model.modules()
                for name, layer in parent.named_children()
                if isinstance(layer, BaseTunerLayer)
            ]
        for branched in self._taken_out:
            setattr(branched.parent, branched.name, branched.layer.get_base_layer())

    def _put_in(self) -> None:
        for branched in self._taken_out:
            if branched.layer.r:  # else all its adapters were evicted
                setattr(branched.parent, branched.name, branched.layer)
        self._taken_out.clear()

    def _require(self, name: str) -> None:
        if name not in self._resident:
            self._loaded += 1
            adapter = f"adapter_{self._loaded}_"  # so that none is the beginning of another: peft looks for parts of names
            try:
                self._load(self._file(name), adapter)
            except BaseException as error:
                self._delete(adapter)
                if not isinstance(error, Exception) or isinstance(error, torch.AcceleratorError) or is_out_of_memory(error):
                    raise
                raise EngineFailed(f"the LoRA {name!r} cannot be used: {_reason(error)}") from error
            self._resident[name] = adapter
        self._resident.move_to_end(name)

    def _evict(self, beside: set[str]) -> None:
        oldest = [name for name in self._resident if name not in beside]
        for name in oldest[: max(0, len(self._resident) - self._capacity)]:
            self._delete(self._resident.pop(name))

    def _load(self, file: Path, adapter: str) -> None:
        """As the stock pipelines' ``load_lora_weights``, but that nothing in the file may be left over."""
        with safe_open(file, framework="pt") as weights:
            if any("dora_scale" in key for key in weights.keys()):  # noqa: SIM118 - it is no dict
                raise ValueError("it is a DoRA, of which diffusers would drop the magnitudes")
        # The blocks of SDXL have other numbers in the files of other tools.
        unet_config = self._models["unet"].config if "text_encoder_2" in self._models else None
        state_dict, network_alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
            str(file.parent),
            weight_name=file.name,
            use_safetensors=True,
            local_files_only=True,
            unet_config=unet_config,
            return_lora_metadata=True,
        )
        _check_keys(state_dict, self._models)
        # What was read is a map of the file; a copy does not mind when the file is written anew.
        state_dict = {key: weight.clone() for key, weight in state_dict.items()}
        options = {"network_alphas": network_alphas, "metadata": metadata, "adapter_name": adapter, "low_cpu_mem_usage": True}
        for prefix, model in self._models.items():
            given = sum(key.startswith(f"{prefix}.") for key in state_dict)
            if not given:
                continue
            if prefix == "unet":
                StableDiffusionLoraLoaderMixin.load_lora_into_unet(state_dict, unet=model, **options)
                regroup(model)
            else:
                StableDiffusionLoraLoaderMixin.load_lora_into_text_encoder(state_dict, text_encoder=model, prefix=prefix, **options)
            taken = sum(f".{adapter}." in name for name, _ in model.named_parameters())
            if taken != given:
                raise ValueError(f"{given - taken} of its {given} weights for {prefix} fit no layer of this model")

    def _delete(self, adapter: str) -> None:
        """Of whatever is left of it too, should loading have stopped half-way."""
        for model in self._models.values():
            for module in model.modules():
                if isinstance(module, BaseTunerLayer):
                    module.delete_adapter(adapter)
            getattr(model, "peft_config", {}).pop(adapter, None)
        regroup(self._models["unet"])


def _check_keys(state_dict: Mapping[str, torch.Tensor], models: Mapping[str, Any]) -> None:
    if not state_dict:
        raise ValueError("it holds no weights")
    for key in state_dict:
        if "lora" not in key or key.partition(".")[0] not in models:
            raise ValueError(f"{key} is not a LoRA weight of {', '.join(models)}")


def _reason(error: BaseException) -> str:
    """For the owner of the job, who is not shown paths of this machine."""
    if isinstance(error, KeyError) and error.__context__ is not None:
        error = error.__context__  # diffusers stumbles while it cleans up, and hides what went wrong
    if isinstance(error, OSError):
        return "its file cannot be read"
    return " ".join((str(error) or repr(error)).split())[:300]
