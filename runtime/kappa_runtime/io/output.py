"""The container log: what runtime processes print goes to the agent's own stdout, which may be a slow pipe.

Nothing here blocks, drops what a function printed or grows: while stdout is full the runtime processes' pipes are not
read, so the processes wait in their own write.
"""

from __future__ import annotations

import os

from kappa_runtime.io.loop import EventLoop, TimerHandle

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Protocol

    class Source(Protocol):
        """What writes to the log as fast as it can."""

        def pause(self, paused: bool) -> None: ...


READ_BYTES: Final = 65536
HIGH_WATER: Final = 256 * 1024
LOW_WATER: Final = 64 * 1024
MAX_PENDING: Final = 1024 * 1024
"""Beyond it the agent's own lines (START, END, REPORT) are left out, and counted."""
MAX_HELD: Final = 16 * 1024
"""Bytes of a line without its end that are held back where several processes print."""
KEPT: Final = 2048
_DRAIN_READS: Final = 16
LINE_DELAY: Final = 0.02
"""Seconds that the agent's own lines may wait, so that one write takes many of them."""


class Output:
    """Writes to a descriptor as fast as it accepts; while it is full the sources are paused."""

    def __init__(self, loop: EventLoop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._sources: set[Source] = set()
        self._pending: list[bytes] = []
        self._size = 0
        self._line_start = True
        self._left_out = 0
        self._waiting = False
        self._timer: TimerHandle | None = None
        self._broken = False
        self.full = False

    def add(self, source: Source) -> None:
        """Pause this source while the descriptor is full, which may be now."""
        self._sources.add(source)
        source.pause(self.full)

    def remove(self, source: Source) -> None:
        self._sources.discard(source)

    def write(self, data: bytes) -> None:
        """What a function printed: written at once."""
        self._pending.append(data)
        self._size += len(data)
        self._line_start = data.endswith(b"\n")
        if not self._waiting:
            self.flush()
        else:
            self._pause_sources()

    def line(self, data: bytes) -> None:
        """The agent's own complete lines: batched for `LINE_DELAY`; they end a line that a function left open."""
        if self._size > MAX_PENDING:
            self._left_out += 1
            return
        if not self._line_start:
            data = b"\n" + data
            self._line_start = True
        self._pending.append(data)
        self._size += len(data)
        if self._timer is None and not self._waiting:
            self._timer = self._loop.call_later(LINE_DELAY, self.flush)

    @property
    def pending(self) -> int:
        """Bytes that are not written yet."""
        return self._size

    def flush(self) -> None:
        """Write what can be written now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._pending:
            return
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        try:
            written = len(data) if self._broken else os.write(self._fd, data)
        except BlockingIOError:
            written = 0
        except BrokenPipeError:
            self._broken = True
            written = len(data)
        except OSError:
            # a full disk: a function goes on without this piece of its log
            written = len(data)
        self._size = len(data) - written
        self._pending = [data[written:]] if self._size else []
        if self._size and not self._waiting:
            self._waiting = True
            self._loop.add_writer(self._fd, self.flush)
        elif not self._size and self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._fd)
            if self._left_out:
                left_out, self._left_out = self._left_out, 0
                self.line(b"kappa: %d log lines of the platform were left out: stdout was not read\n" % left_out)
        self._pause_sources()

    def _pause_sources(self) -> None:
        if self._size > HIGH_WATER and not self.full:
            self.full = True
        elif self._size < LOW_WATER and self.full:
            self.full = False
        else:
            return
        for source in tuple(self._sources):
            source.pause(self.full)


class Pipe:
    """A runtime process's stdout and stderr: read as fast as the container log accepts it. It owns `fd`."""

    def __init__(self, loop: EventLoop, fd: int, output: Output, *, whole_lines: bool) -> None:
        self._copy: Callable[[bytes], None] | None = None
        self._loop = loop
        self._fd = fd
        self._output = output
        self._whole_lines = whole_lines
        """Other processes print too, so only whole lines are passed on."""
        self._held = b""
        self._said = b""
        self._reading = False
        output.add(self)

    @property
    def said(self) -> bytes:
        """The last bytes that were read."""
        return self._said

    def copy_to(self, copy: Callable[[bytes], None] | None) -> None:
        """Call it with all that is read from now on; None: with nothing any more."""
        self._copy = copy

    def pause(self, paused: bool) -> None:
        if self._fd < 0:
            return
        if not paused and not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._read)
        elif paused and self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def drain(self) -> None:
        """Read what is in the pipe now (it holds 64 KiB by default, 1 MiB at most), unless stdout takes nothing."""
        for _ in range(_DRAIN_READS):
            if self._output.pending > MAX_PENDING or not self._read():
                break

    def end_line(self) -> None:
        """Pass on a last line that has no newline."""
        if self._held:
            held, self._held = self._held, b""
            self._output.write(held)

    def release(self) -> None:
        """Stop reading; the caller owns the descriptor from now on."""
        self.end_line()
        self.pause(True)
        self._output.remove(self)
        self._fd = -1

    def close(self) -> None:
        fd = self._fd
        self.release()
        if fd >= 0:
            os.close(fd)

    def _read(self) -> bool:
        """One piece of it. False when there is no more for now."""
        if self._fd < 0:
            return False
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            # every process that could write is gone
            self.pause(True)
            return False
        if self._copy is not None:
            self._copy(data)
        self._said = data[-KEPT:] if len(data) >= KEPT else (self._said + data)[-KEPT:]
        if self._whole_lines:
            data = self._held + data
            cut = len(data) if len(data) > MAX_HELD else data.rfind(b"\n") + 1
            self._held = data[cut:]
            data = data[:cut]
        if data:
            self._output.write(data)
        return True
