"""A device that is none: its tensors say that they are elsewhere (``meta``) and are computed on the CPU.

Counts what a GPU would be asked for: launches (calls that compute or copy there), copies to it and from it, and waits for it. Refuses to compute
with tensors of both places at once, as a GPU does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
_WAITS = frozenset({"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "item", "masked_select", "unique", "_unique2"})
"""Calls whose answers Python, or the size of their result, waits for."""


class Elsewhere(torch.Tensor):
    """A tensor of the device."""

    here: torch.Tensor
    """The same numbers on the CPU."""

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Self:  # noqa: ANN001 - a static method, as torch wants it
        made: Self = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype, device=DEVICE
        )
        made.here = here
        return made

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        return f"Elsewhere({self.here!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own stub leaves out the function
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        return _call(func, args, dict(kwargs or {}), Asked())


@dataclass
class Asked:
    """What the device was asked for."""

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)
    """``in`` and ``out``; launches too."""
    in_model: int = 0
    """Launches of calls within ``apart``."""


class Pretending(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, what is made for the device is there, and what the device is asked for is counted."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asked = Asked()

    @contextmanager
    def on(self) -> Iterator[Asked]:
        """Pretend, and count anew."""
        self.asked = Asked()
        with self, _Apart(self):
            yield self.asked

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        del types
        with self:  # in inference mode torch leaves it to us to take calls apart
            found = func.decompose(*args, **(kwargs or {}))
        return _call(func, args, dict(kwargs or {}), self.asked) if found is NotImplemented else found

    def apart(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, with its launches counted as one number; it may wait no more than others."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            outside, self.asked = self.asked, Asked()
            try:
                return call(*args, **kwargs)
            finally:
                outside.in_model += self.asked.launches.total()
                outside.waits += self.asked.waits
                self.asked = outside

        return counted


class _Apart(TorchFunctionMode):
    """Two calls that C++ decides by the device: attention, which is here the CPU's and one launch, and tensors of Python's numbers, which are copied there."""

    def __init__(self, pretending: Pretending) -> None:
        super().__init__()
        self._pretending = pretending

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and kwargs.get("device") is not None and torch.device(kwargs["device"]) == DEVICE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        if func is torch.Tensor.tolist and _elsewhere(args):
            self._pretending.asked.waits["tolist"] += 1
            return args[0].here.tolist()
        if func is not torch.nn.functional.scaled_dot_product_attention or not _elsewhere((args, kwargs)):
            return func(*args, **kwargs)
        self._pretending.asked.launches["scaled_dot_product_attention"] += 1
        with torch._C._DisableTorchDispatch():
            found = func(*_here(args), **_here(kwargs))
        return Elsewhere(found)


def to_device(module: torch.nn.Module) -> None:
    """Move the parameters and buffers of ``module`` to the device, for calls in inference mode alone: torch makes no views of others there."""
    for child in module.modules():
        for name, parameter in list(child.named_parameters(recurse=False)):
            with torch.inference_mode():
                setattr(child, name, torch.nn.Parameter(Elsewhere(parameter.clone()), requires_grad=False))
        for name, buffer in list(child.named_buffers(recurse=False)):
            with torch.inference_mode():
                child._buffers[name] = Elsewhere(buffer.clone())  # register_buffer would lose whether it is kept


def _elsewhere(values: Any) -> list[Elsewhere]:
    return [value for value in tree_leaves(values) if isinstance(value, Elsewhere)]


def _here(values: Any) -> Any:
    return tree_map_only(Elsewhere, lambda tensor: tensor.here, values)


def _call(func: Any, args: Sequence[Any], kwargs: dict[str, Any], asked: Asked) -> Any:
    there, name = _elsewhere((args, kwargs)), func.overloadpacket.__name__
    device = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if not there and device != DEVICE:
        return func(*args, **kwargs)
    is_copy = name in ("_to_copy", "copy_")
    here = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor) and not isinstance(value, Elsewhere)]
    if there and not is_copy and any(tensor.dim() for tensor in here):
        raise RuntimeError(f"{name}: tensors of both places at once")
    if device is not None:
        kwargs["device"] = torch.device("cpu")
    found = func(*_here(args), **_here(kwargs))
    comes_back = (name == "_to_copy" and bool(there) and device is not None and device != DEVICE) or (
        name == "copy_" and not isinstance(args[0], Elsewhere)
    )
    if comes_back:
        asked.copies["out"] += 1
        waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
    else:
        waits = name in _WAITS
        asked.copies["in"] += is_copy and (not there or bool(here))
    asked.waits[name] += waits
    is_view = any(result.alias_info is not None and not result.alias_info.is_write for result in func._schema.returns)
    asked.launches[name] += not is_view
    if comes_back:
        return args[0] if name == "copy_" else found
    written = {id(tensor.here): tensor for tensor in there}
    return tree_map_only(torch.Tensor, lambda tensor: written[id(tensor)] if id(tensor) in written else Elsewhere(tensor), found)
