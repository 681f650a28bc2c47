"""The errors by which torch and the libraries below it report that a device has no memory left."""

from __future__ import annotations

import torch

MESSAGES = (
    "out of memory",  # CUDA's own, and torch's allocators
    "can't allocate memory",  # the allocator of a CPU
    "ALLOC_FAILED",  # CUBLAS_STATUS_…, CUSOLVER_STATUS_…, CUDNN_STATUS_… before version 9
    "ALLOCATION_FAILED",  # CUDNN_STATUS_INTERNAL_ERROR_{DEVICE,HOST}_ALLOCATION_FAILED since cuDNN 9
    # Handles and plans are made at a library's first use: on a full device that fails, and no other word is given for it.
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUSOLVER_STATUS_NOT_INITIALIZED",
    "CUSOLVER_STATUS_INTERNAL_ERROR",
    "unable to find an engine",  # cuDNN's plans need a workspace; where none fits, torch says that it found none
)
"""Parts of messages. Some have other causes too: the same call with less then fails again, alone, and with it its one job."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a lack of device memory from other errors: torch's own error for it, or a ``RuntimeError`` with one of ``MESSAGES``."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)
