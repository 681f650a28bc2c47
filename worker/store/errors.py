"""Why a command on the model store was refused."""

from __future__ import annotations


class StoreError(RuntimeError):
    """Something cannot be fetched, verified or installed; the message is for the person who asked."""
