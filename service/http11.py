"""HTTP/1.1 as uvicorn reads it by h11, but for bodies in pieces so small that reading them would keep everybody else waiting.

``uvicorn --http service.http11:Protocol``. h11 makes an event of each chunk, and uvicorn handles all that came in one read before it goes on: a body of one
byte a chunk would take a core for each two megabytes a second, whether or not its key is good.
"""

from __future__ import annotations

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

FREE_CHUNKS = 100
"""Chunks of a body of which nothing is asked."""
LEAST_CHUNK = 1024
"""Bytes that the chunks of a body have on average, beyond those."""


class _Connection(h11.Connection):
    """Raises ``RemoteProtocolError`` for a body in too many pieces."""

    _chunks = _bytes = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks, self._bytes = self._chunks + event.chunk_start, self._bytes + len(event.data)
            if self._chunks > FREE_CHUNKS and self._bytes < LEAST_CHUNK * (self._chunks - FREE_CHUNKS):
                raise h11.RemoteProtocolError(f"chunks of a body have {LEAST_CHUNK} bytes on average")
        return event


class Protocol(H11Protocol):
    """One connection."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.conn = _Connection(h11.SERVER, self.conn._max_incomplete_event_size)  # noqa: SLF001 -- as uvicorn has made it

    def send_400_response(self, msg: str) -> None:
        """Say so and close the connection; where an answer has begun, close it."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()
