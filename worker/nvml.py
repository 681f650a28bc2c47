"""NVIDIA's management library (NVML): what a whole card holds and does, other processes included."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Nvml:
    """Asks NVML about cards by their UUID, as it knows nothing of ``CUDA_VISIBLE_DEVICES``.

    What it cannot tell is ``None``, for instance the utilisation of a MIG slice. Each reason is logged once and
    nothing is raised.
    """

    def __init__(self, library: Any = None) -> None:
        """``library`` is the module ``pynvml``, or what stands in for it; by default it is imported when first needed."""
        self._library = library
        self._begun = False
        self._handles: dict[str, Any] = {}
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def driver(self) -> str | None:
        """The version of the driver."""
        return self._ask("driver version", lambda nvml: str(nvml.nvmlSystemGetDriverVersion()))

    def memory(self, uuid: str) -> dict[str, int] | None:
        """Bytes of the card ``uuid``: total, used and free."""

        def ask(nvml: Any) -> dict[str, int]:
            found = nvml.nvmlDeviceGetMemoryInfo(self._handle(nvml, uuid))
            return {"total": found.total, "used": found.used, "free": found.free}

        return self._ask(f"memory of {uuid}", ask)

    def utilization(self, uuid: str) -> float | None:
        """The share, 0 to 1, of the driver's last sample period (a second at most) in which a kernel ran on card ``uuid``."""

        def ask(nvml: Any) -> float:
            return float(nvml.nvmlDeviceGetUtilizationRates(self._handle(nvml, uuid)).gpu) / 100

        return self._ask(f"utilization of {uuid}", ask)

    def _handle(self, nvml: Any, uuid: str) -> Any:
        if uuid not in self._handles:
            self._handles[uuid] = nvml.nvmlDeviceGetHandleByUUID(uuid)
        return self._handles[uuid]

    def _ask(self, question: str, ask: Callable[[Any], T]) -> T | None:
        with self._lock:
            try:
                nvml = self._begin()
            except Exception as error:  # no package, no library, no driver, no permission
                self._warn("nvml", error)
                return None
            try:
                return ask(nvml)
            except Exception as error:  # not supported here, or an answer that the bindings cannot read
                self._warn(question, error)
                return None

    def _begin(self) -> Any:
        if self._library is None:
            self._library = importlib.import_module("pynvml")
        if not self._begun:
            self._library.nvmlInit()
            self._begun = True
        return self._library

    def _warn(self, question: str, error: Exception) -> None:
        if question not in self._warned:
            self._warned.add(question)
            hint = "its series are absent; this is said once"
            _log.warning("nvml_does_not_tell", question=question, error=repr(error), hint=hint)
