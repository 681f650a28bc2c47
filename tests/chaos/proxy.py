"""A proxy on loopback that stands before a server and misbehaves when told."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress
from enum import StrEnum
from typing import Self

_CHUNK = 1 << 16
_500 = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Mode(StrEnum):
    """How a proxy treats what comes."""

    PASS = "pass"
    DOWN = "down"
    """Connections are closed."""
    ERRORS = "errors"
    """Each HTTP request is answered 500."""


class Proxy:
    """Passes bytes on in a thread of its own. Use as a context manager; ``port`` is there from the start."""

    def __init__(self, seed: int) -> None:
        self.target = 0
        """The server's port."""
        self.dropped = 0
        """Replies that were taken away: their commands were carried out."""
        self._random, self._drop_share, self._mode = random.Random(seed), 0.0, Mode.PASS
        self._connections: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def become(self, mode: Mode) -> None:
        """Treat everything so from now on. Open connections are closed unless all is passed."""
        self._mode = mode
        if mode is Mode.DOWN:
            self.hang_up()

    def hang_up(self) -> None:
        """Close all connections; new ones are passed as the mode says."""
        self._loop.call_soon_threadsafe(self._hang_up)

    def drop_replies(self, share: float) -> None:
        """Of the server's replies, take away this share, with the connection: the caller cannot know whether its command was carried out."""
        self._drop_share = share

    def _hang_up(self) -> None:
        for writer in self._connections:
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        self._hang_up()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        server_writer: asyncio.StreamWriter | None = None
        try:
            if self._mode is Mode.DOWN:
                return
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, writer, server_writer))
                group.create_task(self._replies(server_reader, writer))
        except (OSError, ExceptionGroup):
            pass
        finally:
            self._connections.discard(writer)
            for each in (writer, server_writer):
                if each is not None:
                    each.transport.abort() if each is server_writer else each.close()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK):
            if self._mode is Mode.ERRORS:
                writer.write(_500)
                with suppress(OSError):
                    await writer.drain()
                break
            server.write(chunk)
            await server.drain()
        raise ConnectionResetError

    async def _replies(self, server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await server.read(_CHUNK):
            if self._drop_share and self._random.random() < self._drop_share:
                self.dropped += 1
                break
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError
