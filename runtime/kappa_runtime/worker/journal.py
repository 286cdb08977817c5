"""What a runtime process leaves in the log: Lambda's lines, what it printed, and how much memory it took."""

from __future__ import annotations

import time

from kappa_runtime import platform
from kappa_runtime.io.loop import EventLoop
from kappa_runtime.io.output import Output, Pipe
from kappa_runtime.start.child import Child
from kappa_runtime.worker import logs
from kappa_runtime.worker.invocation import Invocation

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from typing import Final

_MEMORY_INTERVAL: Final = 0.05
"""Seconds between two looks at a process's memory: one costs as much as a small invocation."""


class Journal:
    """One per runtime process, over all of its lives; `open` begins one."""

    def __init__(self, loop: EventLoop, output: Output, *, memory_mib: int, whole_lines: bool) -> None:
        self._loop = loop
        self._output = output
        self._limit_mib = memory_mib
        self._whole_lines = whole_lines
        self._pipe: Pipe | None = None
        self._pid = 0
        self._peak_mib = 0
        self._looked = 0.0

    def open(self, child: Child) -> None:
        """A new process: what it prints is read from now on."""
        self._pipe = Pipe(self._loop, child.output, self._output, whole_lines=self._whole_lines)
        self._pid = child.pid
        self._peak_mib = 0
        self._looked = 0.0

    def close(self) -> None:
        """The process is gone, and what it printed was read."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        self._pid = 0

    def drain(self) -> bytes:
        """Read what was printed so far; its last bytes."""
        if self._pipe is None:
            return b""
        self._pipe.drain()
        return self._pipe.said

    def start(self, invocation: Invocation) -> None:
        """An invocation begins: what is printed from now on is its."""
        if self._pipe is not None:
            self._pipe.copy_to(invocation.tail.add if invocation.tail is not None else None)
        self._line(invocation, logs.start_line(invocation.request_id))

    def note(self, invocation: Invocation, text: str) -> None:
        """A line of the platform about an invocation, after what was printed so far."""
        self.drain()
        self._line(invocation, f"{text}\n".encode())

    def end(
        self, invocation: Invocation, duration_ms: float, *, init_ms: float | None, status: str, error_type: str
    ) -> bytes:
        """An invocation ends. The tail of its log in base64, where it is wanted."""
        if self._pipe is not None:
            # what it printed before it answered is in the pipe by now
            self._pipe.drain()
            self._pipe.end_line()
            self._pipe.copy_to(None)
        line = logs.end_lines(
            invocation.request_id,
            duration_ms=duration_ms,
            memory_mib=self._limit_mib,
            max_memory_mib=self.look_at_memory(),
            init_ms=init_ms,
            status=status,
            error_type=error_type,
        )
        self._line(invocation, line)
        return invocation.tail.base64() if invocation.tail is not None else b""

    def failed_start(self, elapsed_ms: float, *, status: str, error_type: str) -> None:
        self._output.line(logs.init_report_line(elapsed_ms, status=status, error_type=error_type))

    def look_at_memory(self) -> int:
        """The process's peak so far, in MiB; to be called before it is killed, too."""
        now = time.perf_counter()
        if now - self._looked > _MEMORY_INTERVAL:
            self._looked = now
            peak = platform.peak_memory_mib(self._pid) if self._pid else 0
            self._peak_mib = max(self._peak_mib, peak)
        return self._peak_mib

    def _line(self, invocation: Invocation, line: bytes) -> None:
        self._output.line(line)
        if invocation.tail is not None:
            invocation.tail.add(line)
