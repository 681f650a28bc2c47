"""Calls whose cost a caller's file decides, each in a process of its own that is ended where it takes more than it may.

A sandbox holds processes that have loaded one module and wait. A call sends JSON and files and gets JSON and buffers back (never a pickle: what has been
taken over by a file may say anything), through shared memory. Its process may use so much processor time and memory for it, has no
settings and no secrets in its environment, and is replaced where it was ended.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Any

import structlog

from api_schemas import errors
from api_schemas.errors import ImageCorrupt, ImageTooCostly, Invalid

Call = Callable[[Any, list[bytes]], tuple[Any, Sequence[Any]]]
"""What a sandboxed module has in its ``CALLS``: JSON and files in, JSON and buffers out."""
Wanted = Callable[[], None]
"""Raises where the call is not wanted any more."""

_log = structlog.get_logger(__name__)
_LOOK_S = 0.1
_PATIENCE_S = 5.0
_LONGEST = 2**20
"""Bytes of JSON that a process may answer."""
_HEAD = struct.Struct(">IQ")
"""Bytes of the JSON, and of the shared memory behind it."""
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")
_QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
_SERVE = "import sys; from imagefiles.sandbox import serve; serve(sys.argv[1], int(sys.argv[2]))"
_FILES = 64


@dataclass(frozen=True)
class Allowance:
    """How much one call may take."""

    cpu_s: float
    """Processor seconds, of all its threads."""
    memory: int
    """Bytes of memory of its own, above what its process has before. Linux alone keeps it to that."""


@dataclass(frozen=True)
class Answer:
    """What a call returned."""

    value: Any
    buffers: tuple[memoryview, ...]
    """Writable, and nobody else's."""


@dataclass(frozen=True)
class Pieces:
    """A buffer of ``nbytes`` that is made while it is sent."""

    nbytes: int
    pieces: Iterator[Any]
    """Contiguous buffers, one behind the other."""


class Sandbox:
    """So many processes that have loaded ``module``, started when they are needed, which share ``memory`` bytes for their calls. Thread-safe."""

    def __init__(self, module: str, processes: int, *, memory: int, niceness: int = 0) -> None:
        self._module, self._niceness, self._memory = module, niceness, memory
        self._free, self._spare = memory, memory // 8
        """What is free, and the part of it that is for small calls, so that large pictures do not keep them waiting."""
        self._places = processes
        self._idle: list[_Process] = []
        self._line: list[_Ticket] = []
        self._changed = threading.Condition()
        self._closed = False
        self._starter = ThreadPoolExecutor(1, "sandbox-starter")
        # Its thread is made here: threads, and the processes that they start, inherit niceness, and a call's thread has its own.
        self._starter.submit(int).result()

    def call(
        self,
        name: str,
        value: Any,
        files: Sequence[bytes],
        allowance: Allowance,
        wanted: Wanted | None = None,
        *,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Answer:
        """What the module's call ``name`` returns, once a process and the memory that it is allowed are free; ``waiting`` is entered until then.

        Raises what it raises of ``Invalid``; ``ImageTooCostly`` where it takes more than its ``allowance``; ``ImageCorrupt`` where its process
        breaks; and what ``wanted`` raises, which is asked ten times a second.
        """
        memory = min(allowance.memory, self._memory - self._spare)
        request = {"call": name, "value": value, "cpu_s": allowance.cpu_s, "memory": memory}
        with self._process(memory, wanted, waiting) as process:
            try:
                return process.call(request, files, wanted)
            except _BrokenError as broken:
                ended = process.end()
                _log.warning("sandbox_ended", module=self._module, call=name, why=broken.why, status=ended, bytes=sum(map(len, files)))
                if broken.why == "time" or ended == -signal.SIGXCPU:
                    raise ImageTooCostly(f"decoding takes longer than {allowance.cpu_s:g} s") from broken
                raise ImageCorrupt("the image breaks its decoder") from broken
            except BaseException:
                if process.is_busy:
                    process.end()
                raise

    def warm(self) -> None:
        """Have one process ready, so that the first call need not wait for it."""
        with self._process(0, None, nullcontext):
            pass

    @contextmanager
    def _process(self, memory: int, wanted: Wanted | None, waiting: Callable[[], AbstractContextManager[None]]) -> Iterator[_Process]:
        with self._changed:
            with waiting():
                self._wait(memory, wanted)
            self._places, self._free = self._places - 1, self._free - memory
            while (process := self._idle.pop() if self._idle else None) is not None and process.has_ended:
                process.end()
        try:
            process = process or self._starter.submit(_Process, self._module, self._niceness).result()
            yield process
        finally:
            with self._changed:
                if process is not None and process.is_alive:
                    self._idle.append(process)
                self._places, self._free = self._places + 1, self._free + memory
                self._changed.notify_all()
            if self._closed:
                self.close()

    def _wait(self, memory: int, wanted: Wanted | None) -> None:
        """Wait for a process and for so much memory. Who came before goes first, but that small calls pass large ones for ``_PATIENCE_S``."""
        is_small = memory <= self._spare
        ticket = _Ticket(is_small, time.monotonic())
        self._line.append(ticket)
        try:
            while not self._places or memory > self._free - (0 if is_small else self._spare) or self._is_behind(ticket):
                self._changed.wait(_LOOK_S)
                if wanted is not None:
                    wanted()
        finally:
            self._line.remove(ticket)
            self._changed.notify_all()

    def _is_behind(self, ticket: _Ticket) -> bool:
        for first in self._line:
            if first is ticket:
                return False
            if first.is_small == ticket.is_small or time.monotonic() - first.since > _PATIENCE_S:
                return True
        return False

    def close(self) -> None:
        """End the processes that wait; those that work are ended after their call."""
        self._closed = True
        with self._changed:
            while self._idle:
                self._idle.pop().end()


@dataclass(frozen=True, eq=False)
class _Ticket:
    """A call that waits."""

    is_small: bool
    since: float


class _BrokenError(Exception):
    """The process is of no more use."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _Process:
    """One process, seen from outside."""

    def __init__(self, module: str, niceness: int) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environment: dict[str, str] = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= _QUIET | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        with theirs:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 -- of our own
                [sys.executable, "-W", "ignore", "-c", _SERVE, module, str(niceness)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment,
                # A terminal's Ctrl-C is the parent's to hear. In a session of its own its niceness would count for nothing beside the parent's threads
                # (sched_autogroup).
                process_group=0,
            )
        self.is_alive, self.is_busy = True, False

    def call(self, request: Mapping[str, Any], files: Sequence[bytes], wanted: Wanted | None) -> Answer:
        self.is_busy = True
        until = time.monotonic() + 10 * request["cpu_s"] + 30  # of a machine that is busy; the processor's time is bounded by the kernel
        try:
            self._socket.settimeout(None)
            _send(self._socket, {**request, "sizes": [len(file) for file in files]}, files)
            self._socket.settimeout(_LOOK_S)
            told, shared = _receive(self._socket, lambda: _look(until, wanted))
        except (ConnectionError, ValueError, RecursionError) as error:
            raise _BrokenError("fault") from error
        answer = _checked(told, shared)
        self.is_busy = False
        if isinstance(answer, Invalid):
            raise answer
        return answer

    @property
    def has_ended(self) -> bool:
        """Whether it was ended from outside, as by a system without memory."""
        return self._process.poll() is not None

    def end(self) -> int:
        """End it now. Its status, negative where a signal ended it."""
        self.is_alive = False
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):  # it may be ending by itself, and its status says why
            return self._process.wait(0.2 if self.is_busy else 0)
        self._process.kill()
        return self._process.wait()


def _look(until: float, wanted: Wanted | None) -> None:
    if wanted is not None:
        wanted()
    if time.monotonic() > until:
        raise _BrokenError("time")


def _checked(told: Any, shared: mmap.mmap | None) -> Answer | Invalid:
    """An answer, or the error that it tells. Raises ``_BrokenError`` for anything else: a process may have been taken over."""
    try:
        if "error" in told:
            kind: type[Invalid] = getattr(errors, told["error"]["kind"])
            if not issubclass(kind, Invalid):
                raise _BrokenError("fault")
            return kind(str(told["error"]["detail"]), field=told["error"]["field"])
        buffers, at = [], 0
        for size in told["sizes"]:
            buffers.append(memoryview(shared)[at : at + size] if shared else memoryview(bytearray()))
            at += size
        return Answer(told["value"], tuple(buffers))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _BrokenError("fault") from error


# -- both sides -------------------------------------------------------------------------------------------------------------------


def _send(connection: socket.socket, message: Any, buffers: Sequence[Any]) -> None:
    text, size = json.dumps(message).encode(), sum(map(_size, buffers))
    shared = _memory(buffers) if size else None
    try:
        socket.send_fds(connection, [_HEAD.pack(len(text), size)], [] if shared is None else [shared])
        connection.sendall(text)
    finally:
        if shared is not None:
            os.close(shared)


def _size(buffer: Any) -> int:
    return buffer.nbytes if isinstance(buffer, Pieces) else memoryview(buffer).nbytes


def _memory(buffers: Sequence[Any]) -> int:
    """A file in memory that holds ``buffers``, one after the other."""
    if hasattr(os, "memfd_create"):
        shared = os.memfd_create("outfill", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            shared = os.dup(file.fileno())
    for buffer in buffers:
        for piece in buffer.pieces if isinstance(buffer, Pieces) else (buffer,):
            view, at = memoryview(piece), 0
            view = view.cast("B") if view.nbytes else memoryview(b"")
            while at < view.nbytes:
                at += os.write(shared, view[at : at + 2**30])
    if hasattr(os, "memfd_create"):
        fcntl.fcntl(shared, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return shared


def _receive(connection: socket.socket, look: Callable[[], None] = lambda: None) -> tuple[Any, mmap.mmap | None]:
    head, shared, text = b"", None, bytearray()
    try:
        while len(head) < _HEAD.size:
            with _patience(look):
                piece, files, _, _ = socket.recv_fds(connection, _HEAD.size - len(head), 1)
                shared = files[0] if files else shared
                head += _some(piece)
        length, size = _HEAD.unpack(head)
        if length > _LONGEST:
            raise ValueError("the answer is too long")
        while len(text) < length:
            with _patience(look):
                text += _some(connection.recv(length - len(text)))
        if not size:
            return json.loads(text), None
        # To read behind its end would end the reader, and whoever wrote it could shorten it.
        is_sealed = shared is not None and (not hasattr(os, "memfd_create") or fcntl.fcntl(shared, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
        if shared is None or not is_sealed or os.fstat(shared).st_size < size:
            raise ValueError("there are no buffers")
        return json.loads(text), mmap.mmap(shared, size, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
    finally:
        if shared is not None:
            os.close(shared)


@contextmanager
def _patience(look: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        look()


def _some(piece: bytes) -> bytes:
    if not piece:
        raise ConnectionError("the other side is gone")
    return piece


# -- inside -----------------------------------------------------------------------------------------------------------------------


def serve(module: str, niceness: int) -> None:
    """Answer calls until the other side is gone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))
    os.nice(niceness)
    connection = socket.socket(fileno=os.dup(0))
    calls: Mapping[str, Call] = import_module(module).CALLS
    with suppress(ConnectionError):
        while True:
            request, shared = _receive(connection)
            told, buffers = _answer(calls, request, shared)
            _send(connection, told, buffers)
            del shared, buffers


def _answer(calls: Mapping[str, Call], request: Mapping[str, Any], shared: mmap.mmap | None) -> tuple[Any, Sequence[Any]]:
    with suppress(ValueError):  # of a limit that is lower still
        resource.setrlimit(resource.RLIMIT_CPU, (ceil(time.process_time() + request["cpu_s"]), resource.RLIM_INFINITY))
    _limit_memory(request["memory"] + 2 * sum(request["sizes"]))
    try:
        files, at = [], 0
        for size in request["sizes"]:
            files.append(shared[at : at + size] if shared else b"")
            at += size
        value, buffers = calls[request["call"]](request["value"], files)
        return {"value": value, "sizes": list(map(_size, buffers))}, buffers
    except Invalid as error:
        return {"error": {"kind": type(error).__name__, "detail": error.detail, "field": error.field}}, ()
    except MemoryError:
        return {
            "error": {"kind": "ImageTooCostly", "detail": "decoding takes more memory than a picture of its size may", "field": None}
        }, ()
    finally:
        _limit_memory(None)


def _limit_memory(more: int | None) -> None:
    """Let this process have ``more`` bytes than it has; ``None``: any number."""
    if sys.platform != "linux":
        return
    soft = resource.RLIM_INFINITY
    if more is not None:
        soft = int(Path("/proc/self/statm").read_text().split()[5]) * mmap.PAGESIZE + more
    resource.setrlimit(resource.RLIMIT_DATA, (soft, resource.RLIM_INFINITY))
