"""HTTP/1.1 as uvicorn reads it by h11, with bounds that do not depend on how a request is cut into packets, and answers that arrive.

``uvicorn --http service.http11:Protocol``. Beyond uvicorn's protocol:

- heads of more than ``LONGEST_HEAD`` bytes are 431. h11 counts only while a head is incomplete: the same request passed or failed by its packets.
- bodies in tiny chunks are 400. h11 makes an event of each chunk, and uvicorn handles all that came in one read before it goes on: a body of one byte
  a chunk would take a core for each two megabytes a second, whether or not its key is good.
- connections that are closed in the middle of a request are closed in two steps, so that the answer is not lost to a reset (RFC 9112, section 9.6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
from ulid import ULID
from uvicorn.protocols.http.h11_impl import H11Protocol

from api_schemas.errors import HeadTooLarge, MalformedRequest, OutfillError
from service.problems import problem

LONGEST_HEAD = 2**16
"""Bytes of a request's line and headers."""
FREE_CHUNKS = 100
"""Chunks of a body of which nothing is asked."""
LEAST_CHUNK = 1024
"""Bytes that the chunks of a body have on average, beyond those."""
LINGER_S = 2.0
"""Seconds that a connection stays open for reading after a refusal, at most."""
LINGER_BYTES = 2**20
"""Bytes that are read and dropped in that time, at most."""


class _Connection(h11.Connection):
    """Raises ``RemoteProtocolError`` for a head or trailers too large, and for a body in too many pieces; ``fault`` is the answer to each."""

    _chunks = _bytes = 0

    def __init__(self) -> None:
        super().__init__(h11.SERVER, LONGEST_HEAD)
        self.fault: OutfillError = MalformedRequest("the request is not HTTP/1.1")
        self.method = b""
        """Of the request that came last."""

    def next_event(self) -> Any:
        before = len(self._receive_buffer)
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == HeadTooLarge.status:
                self.fault = _TOO_LARGE
            raise
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
            self.method = event.method
        if isinstance(event, (h11.Request, h11.EndOfMessage)) and before - len(self._receive_buffer) > LONGEST_HEAD:
            self.fault = _TOO_LARGE
            raise h11.RemoteProtocolError(_TOO_LARGE.detail)
        if isinstance(event, h11.Data):
            self._chunks, self._bytes = self._chunks + event.chunk_start, self._bytes + len(event.data)
            if self._chunks > FREE_CHUNKS and self._bytes < LEAST_CHUNK * (self._chunks - FREE_CHUNKS):
                self.fault = MalformedRequest(f"chunks of a body have {LEAST_CHUNK} bytes on average")
                raise h11.RemoteProtocolError(self.fault.detail)
        return event


_TOO_LARGE = HeadTooLarge(f"the line and the headers of a request may have {LONGEST_HEAD} bytes")


class _Transport:
    """A transport whose ``close`` leaves the peer time to read the answer where it is still sending its request."""

    def __init__(self, transport: asyncio.Transport, is_receiving: Callable[[], bool], lingers: Callable[[], None]) -> None:
        """``lingers`` is called when nothing more is to be written, though the connection is open."""
        self._transport = transport
        self._is_receiving = is_receiving
        self._lingers = lingers
        self._left = LINGER_BYTES
        self._timer: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    @property
    def is_lingering(self) -> bool:
        return self._timer is not None

    def is_closing(self) -> bool:
        return self.is_lingering or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        if not self._is_receiving() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._transport.close)
        self._transport.write_eof()
        self._transport.resume_reading()
        self._lingers()

    def drop(self, count: int) -> None:
        """Count bytes that nobody reads, and close when they are too many."""
        self._left -= count
        if self._left < 0:
            self._transport.close()

    def lost(self) -> None:
        """Forget the time that was left."""
        if self._timer is not None:
            self._timer.cancel()


class Protocol(H11Protocol):
    """One connection."""

    conn: _Connection
    transport: Any

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.conn = _Connection()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = _Transport(transport, lambda: self.conn.their_state in {h11.SEND_BODY, h11.ERROR}, self._end_cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_lingering:
            self.transport.drop(len(data))
        else:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 -- `fault` says more
        """Refuse the request by name and close the connection; where an answer has begun, close it."""
        self._end_cycle()
        try:
            if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                self._refuse(self.conn.fault)
        finally:
            self.transport.close()

    def _refuse(self, fault: OutfillError) -> None:
        answer = problem(fault, f"req_{ULID()}")
        headers = [*answer.raw_headers, (b"connection", b"close")]
        reason = HTTPStatus(answer.status_code).phrase.encode()
        self.transport.write(self.conn.send(h11.Response(status_code=answer.status_code, headers=headers, reason=reason)))
        if self.conn.method != b"HEAD":
            self.transport.write(self.conn.send(h11.Data(data=bytes(answer.body))))
        self.transport.write(self.conn.send(h11.EndOfMessage()))

    def _end_cycle(self) -> None:
        """Tell the application that its caller has gone, as uvicorn does where a connection is lost: for this one it is, though it still lingers."""
        if self.cycle is not None:
            if not self.cycle.response_complete:
                self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.resume_writing()
