"""The container log: what runtime processes print goes on to the agent's own stdout, which may be a slow pipe.

Nothing here blocks, drops what a function printed or grows: while stdout is full the runtime processes' pipes are not
read, so the processes wait in their own write.
"""

from __future__ import annotations

import os
import stat

from kappa_runtime.logs import LogTail

TYPE_CHECKING = False  # `typing` would be loaded for annotations alone
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from kappa_runtime.loop import EventLoop, TimerHandle

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
"""Seconds that the agent's own lines may wait for company: one write for many of them."""


def own_stdout() -> int:
    """A descriptor of stdout that does not block, without changing it for others that share it."""
    mode = os.fstat(1).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            return os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            pass
    if not stat.S_ISREG(mode):
        os.set_blocking(1, False)
    return 1


class Output:
    """Writes to a descriptor as it takes it; `on_full(True)` asks to pause what feeds it, `on_full(False)` to go on."""

    def __init__(self, loop: EventLoop, fd: int, on_full: Callable[[bool], None]) -> None:
        self._loop = loop
        self._fd = fd
        self.on_full = on_full
        self._pending: list[bytes] = []
        self._size = 0
        self._line_start = True
        self._left_out = 0
        self._waiting = False
        self._timer: TimerHandle | None = None
        self._broken = False
        self.full = False

    def write(self, data: bytes) -> None:
        """What a function printed: on its way at once."""
        self._pending.append(data)
        self._size += len(data)
        self._line_start = data.endswith(b"\n")
        if not self._waiting:
            self.flush()
        else:
            self._tell_full()

    def line(self, data: bytes) -> None:
        """The agent's own whole lines: they wait a little for more, and start a new line where a function left one open."""
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
        self._tell_full()

    def _tell_full(self) -> None:
        if self._size > HIGH_WATER and not self.full:
            self.full = True
            self.on_full(True)
        elif self._size < LOW_WATER and self.full:
            self.full = False
            self.on_full(False)


class Pipe:
    """A runtime process's stdout and stderr: read as far as the container log takes it."""

    def __init__(self, loop: EventLoop, fd: int, output: Output, *, whole_lines: bool) -> None:
        self.tail: LogTail | None = None
        """Of the invocation that runs, where it is wanted."""
        self._loop = loop
        self._fd = fd
        self._output = output
        self._whole_lines = whole_lines
        """Other processes print too: pass on whole lines only."""
        self._held = b""
        self._said = b""
        self._reading = False
        self.pause(output.full)

    @property
    def said(self) -> bytes:
        """The last bytes that were read."""
        return self._said

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
        """Read what is there now (a pipe holds 64 KiB by default, 1 MiB at most), unless stdout takes nothing."""
        for _ in range(_DRAIN_READS):
            if self._output.pending > MAX_PENDING or not self._read():
                break

    def end_line(self) -> None:
        """Pass on a last line that has no newline."""
        if self._held:
            held, self._held = self._held, b""
            self._output.write(held)

    def release(self) -> None:
        """Read no more of it; the descriptor is somebody else's from now on."""
        self.end_line()
        self.pause(True)
        self._fd = -1

    def close(self) -> None:
        self.end_line()
        self.pause(True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

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
        if self.tail is not None:
            self.tail.add(data)
        self._said = data[-KEPT:] if len(data) >= KEPT else (self._said + data)[-KEPT:]
        if self._whole_lines:
            data = self._held + data
            cut = len(data) if len(data) > MAX_HELD else data.rfind(b"\n") + 1
            self._held = data[cut:]
            data = data[:cut]
        if data:
            self._output.write(data)
        return True
