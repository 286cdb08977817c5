"""The terminal: whole lines from every function and from local mode itself, each with a name before it.

A thread writes them, so that a terminal that is slow, stopped or gone never blocks the event loop. Its queue is
bounded; lines that did not fit are dropped, and one line says how many.
"""

import os
import queue
import threading
from collections.abc import Mapping
from typing import Final, TextIO

SELF: Final = "kappa"
_COLORS: Final = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
"""ANSI foreground colours, in the order in which they are assigned to names."""
MAX_LINE: Final = 16 * 1024
"""Characters."""
_QUEUE: Final = 5000
"""Lines."""


class Console:
    """Takes lines from any thread. `close` writes what is queued, then ends the thread."""

    def __init__(self, out: TextIO, *, color: bool | None = None, env: Mapping[str, str] = os.environ) -> None:
        self._out = out
        self._color = wants_color(out, env) if color is None else color
        self._width = len(SELF)
        self._colors: dict[str, int] = {}
        self._queue: queue.Queue[str | None] = queue.Queue(_QUEUE)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="console", daemon=True)
        self._thread.start()

    def reserve(self, name: str) -> None:
        """Make room for a name, so that lines are aligned from the first one on, and give it a colour."""
        self._width = max(self._width, len(name))
        if name != SELF:
            self._colors.setdefault(name, _COLORS[len(self._colors) % len(_COLORS)])

    def line(self, name: str, text: str) -> None:
        """Write one line of `name`'s output, cut after 16 KiB."""
        if len(text) > MAX_LINE:
            text = f"{text[:MAX_LINE]}… ({len(text) - MAX_LINE:,} more characters)"
        self._put(f"{self._prefix(name)}{text}\n")

    def say(self, text: str) -> None:
        """Write a message of local mode itself; several lines stay together."""
        self._put("".join(f"{self._prefix(SELF)}{line}\n" for line in text.splitlines()))

    def plain(self, text: str) -> None:
        """Write the text without a prefix."""
        self._put(f"{text}\n")

    def close(self, timeout: float = 2.0) -> None:
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return  # the terminal is stuck: the thread is a daemon and ends with the process
        self._thread.join(timeout)

    def _prefix(self, name: str) -> str:
        self.reserve(name)
        label = f"{name:<{self._width}} | "
        if not self._color:
            return label
        return f"\x1b[{self._colors.get(name, 2)}m{label}\x1b[0m"

    def _put(self, text: str) -> None:
        try:
            self._queue.put_nowait(text)
        except queue.Full:
            self._dropped += 1

    def _write(self) -> None:
        try:
            while (text := self._queue.get()) is not None:
                self._out.write(text)
                if self._queue.empty():
                    self._write_dropped()
                    self._out.flush()
            self._write_dropped()
            self._out.flush()
        except (OSError, ValueError):  # the reader is gone: the functions go on without one
            while self._queue.get() is not None:
                pass

    def _write_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._out.write(f"{self._prefix(SELF)}{dropped:,} lines dropped: the terminal was too slow\n")


def wants_color(out: TextIO, env: Mapping[str, str]) -> bool:
    """Whether the output is a terminal with colours, and NO_COLOR is not set (https://no-color.org)."""
    if env.get("NO_COLOR"):
        return False
    return out.isatty() and env.get("TERM", "") not in ("", "dumb")
