"""Calls of a UNet: compiled for the shapes that were warmed, as it is for all others, with the attention kernels of its tuning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import structlog
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from worker.engines.diffusion.common_start import common_start, computed_once, repeating
from worker.engines.diffusion.fastest_attention import FastestAttention, FastestAttnProcessor
from worker.engines.diffusion.kernels import attention_context
from worker.engines.diffusion.lanes import Lanes, Share, shares
from worker.engines.out_of_memory import is_out_of_memory
from worker.tuning import Tuning, TuningRefused

_log = structlog.get_logger(__name__)
GRAPHS = 64
"""Graphs of one UNet that torch may keep; it gives up on the ninth unless told otherwise."""
_NO_GRAPH = "fail_on_recompile"
"""Part of the error by which torch says that no graph fits a call."""


class UnetCall:
    """A UNet, called as ``UNet2DConditionModel`` is called.

    Shapes that were warmed are padded to their row bucket and run compiled. Others, and calls with adapters, run as they are: compiling
    for them would hold up every job for minutes.
    """

    def __init__(self, unet: Any, tuning: Tuning, *, backend: str | Callable[..., Any] = "inductor") -> None:
        self.module = unet
        self.config, self.dtype = unet.config, unet.dtype
        self.calls: Counter[str] = Counter()
        """Calls so far by mode: ``compiled``, ``eager``."""
        self.compile_failure: str | None = None
        """The reason why it is not compiled although its tuning says so."""
        self._tuning = tuning
        self._fastest: FastestAttention | None = None
        self._common_start = common_start(unet)
        self._lanes: Lanes | None = None
        self._backend = backend
        self._compiled: Callable[..., Any] | None = None
        self._warmed: set[tuple[int, ...]] = set()
        self._failed: set[tuple[int, ...]] = set()
        """Shapes for which compiling failed."""

    @property
    def device(self) -> torch.device:
        """The device where inputs belong. With group offload the weights wait elsewhere."""
        device: torch.device = self.module.device
        return device

    @property
    def is_compiled(self) -> bool:
        """Whether warmed shapes run compiled."""
        return bool(self._warmed)

    def prefer(self, fastest: FastestAttention) -> None:
        """Use the kernels that were measured as the fastest. Call it before anything is compiled."""
        self._fastest = fastest
        processors = self.module.attn_processors.values()
        if fastest.has_exceptions and all(type(processor) is AttnProcessor2_0 for processor in processors):
            self.module.set_attn_processor(FastestAttnProcessor(fastest))

    def divide(self, lanes: Lanes | None) -> None:
        """Divide the rows of calls that run as they are among ``lanes``; ``None``: no more."""
        self._lanes = lanes

    def __call__(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        *,
        repeated: int = 0,
        adapted: bool = False,
        return_dict: bool = False,
        **inputs: Any,
    ) -> tuple[torch.Tensor]:
        """Predict the noise of ``sample (rows, channels, h, w)`` at ``timestep (rows,)``: a tuple of one tensor.

        Of the rows, the last ``repeated`` have the samples and timesteps of the first ones; ``adapted``: adapters are active, which no
        compiled graph has. Raises ``ValueError`` for ``return_dict``.
        """
        if return_dict:
            raise ValueError("return_dict: only tuples are returned")
        if not adapted and _shape(sample, inputs) in self._warmed:
            predicted = self._call_compiled(sample, timestep, inputs)
            if predicted is not None:
                return predicted
        self.calls["eager"] += 1
        with self._weights_may_move(), self._attention(), computed_once(self._common_start, repeated):
            each = shares(sample.shape[0], repeated, self._lanes.count) if self._lanes else []
            if self._lanes is None or len(each) < 2:
                return (self.module(sample, timestep, return_dict=False, **inputs)[0],)
            return (self._in_lanes(self._lanes, each, {"sample": sample, "timestep": timestep, **inputs}),)

    def _in_lanes(self, lanes: Lanes, each: Sequence[Share], inputs: Mapping[str, Any]) -> torch.Tensor:
        def call(share: Share) -> torch.Tensor:
            with repeating(share.repeated):
                predicted: torch.Tensor = self.module(**share.of(inputs), return_dict=False)[0]
                return predicted

        predicted = lanes.map(call, each)
        whole = predicted[0].new_empty((inputs["sample"].shape[0], *predicted[0].shape[1:]))
        for share, rows in zip(each, predicted, strict=True):
            share.put(rows, whole)
        return whole

    def warm(self, sample: torch.Tensor, timestep: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor]:
        """Call, and have later calls of this shape with as many rows, or fewer of the same bucket, run compiled.

        Where compiling fails, this shape runs as it is, and so do all others if none was compiled before; raises ``TuningRefused`` if
        the tuning must compile.
        """
        if self._may_compile(_shape(sample, inputs)):
            try:
                return self._compile(sample, timestep, inputs)
            except torch.AcceleratorError:  # the device is broken
                raise
            except Exception as error:
                if self._warmed and is_out_of_memory(error):
                    raise
                self._do_without(_shape(sample, inputs), error)
        return self(sample, timestep, **inputs)

    def _may_compile(self, shape: tuple[int, ...]) -> bool:
        """Whether the tuning compiles and this shape has not failed; where the very first shape did, none is tried."""
        return self._tuning.compile and shape not in self._failed and bool(self._warmed or not self._failed)

    def _compile(self, sample: torch.Tensor, timestep: torch.Tensor, inputs: Mapping[str, Any]) -> tuple[torch.Tensor]:
        if self._compiled is None:  # not before it is needed: the compiler's own import may fail
            self._compiled = torch.compile(self.module, backend=self._backend, dynamic=False)
        # Neither has a public name. Cached graphs of autograd are keyed without the attention kernel, which stands outside the graph: one of an
        # earlier start would bring its own along.
        with torch._dynamo.config.patch(recompile_limit=GRAPHS), torch._functorch.config.patch(enable_autograd_cache=False):  # noqa: SLF001
            predicted = self._call_padded(self._compiled, sample, timestep, inputs)
        self.calls["compiled"] += 1
        self._warmed.add(_shape(sample, inputs))
        return predicted

    def _call_compiled(self, sample: torch.Tensor, timestep: torch.Tensor, inputs: Mapping[str, Any]) -> tuple[torch.Tensor] | None:
        """Call a graph that is there; ``None`` where none serves any more, which is said once."""
        if self._compiled is None:
            return None
        try:
            with torch.compiler.set_stance("fail_on_recompile"):
                predicted = self._call_padded(self._compiled, sample, timestep, inputs)
        except RuntimeError as error:
            if _NO_GRAPH not in str(error):
                raise
            _log.warning("compiled_graph_lost", shape=_shape(sample, inputs), instead="this shape runs uncompiled")
            self._warmed.discard(_shape(sample, inputs))
            return None
        self.calls["compiled"] += 1
        return predicted

    def _do_without(self, shape: tuple[int, ...], error: Exception) -> None:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        if self._tuning.must_compile:
            raise TuningRefused(f"OUTFILL_WORKER__COMPILE=on: compiling failed: {reason}") from error
        _log.warning("compile_failed", reason=reason, compiled=sorted(self._warmed))
        self.compile_failure = reason
        self._failed.add(shape)

    @contextmanager
    def _weights_may_move(self) -> Iterator[None]:
        """What group offload moves in inference mode would be inference tensors from then on, and adapters of such cannot be switched."""
        if self._tuning.offload != "group":
            yield
            return
        with torch.inference_mode(mode=False), torch.no_grad():
            yield

    def _attention(self) -> AbstractContextManager[None]:
        return self._fastest.context() if self._fastest else attention_context(self._tuning.attention)

    def _call_padded(
        self, compiled: Callable[..., Any], sample: torch.Tensor, timestep: torch.Tensor, inputs: Mapping[str, Any]
    ) -> tuple[torch.Tensor]:
        rows = sample.shape[0]
        # Padded in inference mode, always into new tensors: the graph is guarded by strides and by the kind of its inputs too.
        with torch.inference_mode(), self._attention():
            padded = _pad({"sample": sample, "timestep": timestep, **inputs}, row_bucket(rows))
            return (compiled(**padded, return_dict=False)[0][:rows],)


def row_bucket(rows: int) -> int:
    """Return the power of two that ``rows`` are padded to, so that few graphs are compiled. Raises ``ValueError`` below 1."""
    if rows < 1:
        raise ValueError(f"a UNet call of {rows} rows")
    return 1 << (rows - 1).bit_length()


def blank_inputs(unet: UnetCall, rows: int, height: int, width: int, *, tokens: int) -> dict[str, Any]:
    """Return the arguments of a UNet call of ``rows``, all zeros, with latents of ``height × width`` and a text of ``tokens``."""
    config = unet.config

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros((rows, *shape), device=unet.device, dtype=unet.dtype)

    added = None
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": zeros(pooled), "time_ids": zeros(6)}
    return {
        "sample": zeros(config.in_channels, height, width),
        "timestep": torch.zeros(rows, device=unet.device),
        "encoder_hidden_states": zeros(tokens, config.cross_attention_dim),
        "added_cond_kwargs": added,
    }


def blank_call(unet: UnetCall, height: int, width: int, *, tokens: int) -> Callable[[int], object]:
    """Return the call that a warm-up makes: of so many rows, with ``blank_inputs``, compiled where the tuning says so."""
    return lambda rows: unet.warm(**blank_inputs(unet, rows, height, width, tokens=tokens))


def _shape(sample: torch.Tensor, inputs: Mapping[str, Any]) -> tuple[int, ...]:
    """The sizes that a graph is made for: rows, channels and sides of the latents, and tokens of the context."""
    context = inputs.get("encoder_hidden_states")
    return (row_bucket(sample.shape[0]), *sample.shape[1:], 0 if context is None else context.shape[1])


def _pad(inputs: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """``inputs`` with the last row of every tensor repeated up to ``rows``."""
    padded: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor):
            padded[name] = value.new_empty((rows, *value.shape[1:]))
            padded[name][: value.shape[0]] = value
            padded[name][value.shape[0] :] = value[-1:]
        else:
            padded[name] = _pad(value, rows) if isinstance(value, Mapping) else value
    return padded
