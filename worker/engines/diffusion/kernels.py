"""The attention kernel that a UNet uses, and the one that ran.

diffusers' ``set_attention_backend`` does nothing to these UNets: their processors call ``scaled_dot_product_attention``. So the choice is
torch's ``sdpa_kernel``, around the UNet alone: the VAE's one head of 512 channels is beyond flash attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from worker.tuning import Attention

BACKENDS: Mapping[str, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""torch's kernels. xformers and chunked attention are processors of the UNet and do not ask torch."""
OPERATORS: Mapping[str, str] = {
    "aten::_scaled_dot_product_flash_attention": "flash",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "flash_for_cpu",
    "aten::_scaled_dot_product_efficient_attention": "efficient",
    "aten::_scaled_dot_product_cudnn_attention": "cudnn",
    "aten::_scaled_dot_product_attention_math": "math",
}
"""The operators that torch dispatches to, as its profiler names them."""
CHUNKED_OPERATOR = "outfill::chunked_attention"
"""The name that our own attention for CPUs gives its calls with ``torch.profiler.record_function``."""


def attention_context(attention: Attention) -> AbstractContextManager[None]:
    """Return the context for UNet calls. With a single kernel, shapes that it cannot take raise ``RuntimeError`` instead of being slow."""
    return only(attention) if attention in BACKENDS else nullcontext()


def only(kernel: str) -> AbstractContextManager[None]:
    """Return a context in which torch has no other kernel."""
    return sdpa_kernel(BACKENDS[kernel])


def preferring(kernels: Sequence[str]) -> AbstractContextManager[None]:
    """Return a context in which torch takes the first of ``kernels`` that can compute a call, and any other where none can."""
    ordered = dict.fromkeys((*kernels, *BACKENDS))
    return sdpa_kernel([BACKENDS[kernel] for kernel in ordered], set_priority=True)


def attention_kernels(call: Callable[[], object]) -> tuple[str, ...]:
    """Run ``call`` once and name the attention kernels that ran in it, sorted: those of ``OPERATORS``, ``xformers``, ``chunked``."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:  # the operators are named where they are launched
        call()
    return tuple(sorted({kernel for event in profiler.key_averages() if (kernel := _kernel(event.key))}))


def ready_profiler() -> None:
    """Set torch's profiler up in the thread that imported torch: from another one it complains on standard error."""
    with profile(activities=[ProfilerActivity.CPU]):
        pass


def _kernel(operator: str) -> str | None:
    if operator == CHUNKED_OPERATOR:
        return "chunked"
    return "xformers" if operator.startswith("xformers") else OPERATORS.get(operator)
