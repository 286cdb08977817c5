"""The agent's event loop: descriptors, timers and signals, in one thread, by callbacks alone.

asyncio would do, and costs every cold start 40 ms of imports and every pod 8 MiB; the agent needs a small part of it.
The names are asyncio's, so that a reader knows them. A callback that raises is a bug: it is printed with its traceback,
and the loop goes on.
"""

from __future__ import annotations

import os
import sys
import time

from kappa_runtime import platform
from kappa_runtime.imports import deque, heappop, heappush, signal

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Callback = Callable[..., object]

_READ = platform.READ
_WRITE = platform.WRITE
_MAX_EVENTS = 256


class TimerHandle:
    """A callback that is due later; `cancel` prevents it."""

    __slots__ = ("args", "callback", "when")

    def __init__(self, when: float, callback: Callback, args: tuple[Any, ...]) -> None:
        self.when = when
        self.callback: Callback | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None
        self.args = ()


class EventLoop:
    def __init__(self, poller: platform.Poller | None = None) -> None:
        """`poller`: what waits for descriptors; the platform's best by default."""
        self._poller = platform.poller() if poller is None else poller
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._ready: deque[tuple[Callback, tuple[Any, ...]]] = deque()
        self._timers: list[tuple[float, int, TimerHandle]] = []
        self._serial = 0
        self._stopped = False
        self._always: set[int] = set()
        """Descriptors that a poller does not take (plain files): they can be written at any time."""
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        self._handlers: dict[int, Callback] = {}
        self.add_reader(self._wake_read, self._on_wake)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    time = staticmethod(time.monotonic)

    # callbacks

    def call_soon(self, callback: Callback, *args: Any) -> None:
        """Call it in the loop's next turn."""
        self._ready.append((callback, args))

    def call_later(self, delay: float, callback: Callback, *args: Any) -> TimerHandle:
        """Call it once in `delay` seconds."""
        handle = TimerHandle(time.monotonic() + delay, callback, args)
        self._serial += 1
        timers = self._timers
        heappush(timers, (handle.when, self._serial, handle))
        if len(timers) > 1024 and not self._serial % 1024:
            # timers that are cancelled long before their time would pile up under load
            timers[:] = sorted(entry for entry in timers if entry[2].callback is not None)
        return handle

    def add_signal_handler(self, number: int, callback: Callback) -> None:
        """Call it in the loop whenever the signal comes."""
        self._handlers[number] = callback
        signal.signal(number, _noop)

    # descriptors

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call it whenever there is something to read. Raises `OSError` for what cannot be waited for."""
        known = fd in self._readers or fd in self._writers
        self._readers[fd] = callback
        self._watch(fd, known)

    def remove_reader(self, fd: int) -> None:
        if self._readers.pop(fd, None) is not None:
            self._unwatch(fd)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call it whenever it can be written to; a plain file always can."""
        known = fd in self._readers or fd in self._writers
        self._writers[fd] = callback
        try:
            self._watch(fd, known)
        except PermissionError:
            self._always.add(fd)

    def remove_writer(self, fd: int) -> None:
        if self._writers.pop(fd, None) is not None:
            if fd in self._always:
                self._always.discard(fd)
            else:
                self._unwatch(fd)

    def _watch(self, fd: int, known: bool) -> None:
        mask = (_READ if fd in self._readers else 0) | (_WRITE if fd in self._writers else 0)
        if known:
            self._poller.modify(fd, mask)
        else:
            self._poller.register(fd, mask)

    def _unwatch(self, fd: int) -> None:
        mask = (_READ if fd in self._readers else 0) | (_WRITE if fd in self._writers else 0)
        if mask:
            self._poller.modify(fd, mask)
        else:
            self._poller.unregister(fd)

    # running

    def run(self) -> None:
        """Until `stop`."""
        ready = self._ready
        readers = self._readers
        writers = self._writers
        poll = self._poller.poll
        while not self._stopped:
            for fd, mask in poll(self._patience(), _MAX_EVENTS):
                if mask & _READ:
                    callback = readers.get(fd)
                    if callback is not None:
                        self._call(callback, ())
                if mask & _WRITE:
                    callback = writers.get(fd)
                    if callback is not None:
                        self._call(callback, ())
            for fd in tuple(self._always):
                callback = writers.get(fd)
                if callback is not None:
                    self._call(callback, ())
            if self._timers:
                self._run_timers()
            # what these add has its turn after the descriptors'
            for _ in range(len(ready)):
                self._call(*ready.popleft())

    def stop(self) -> None:
        """`run` returns after this turn."""
        self._stopped = True

    def _patience(self) -> float:
        """Seconds that this turn may wait; -1: until something happens."""
        if self._ready or self._always:
            return 0
        timers = self._timers
        while timers and timers[0][2].callback is None:
            heappop(timers)
        if not timers:
            return -1
        # epoll counts in whole milliseconds and rounds up
        return max(0.0, timers[0][0] - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        timers = self._timers
        while timers and timers[0][0] <= now:
            handle = heappop(timers)[2]
            callback, args = handle.callback, handle.args
            if callback is not None:
                handle.cancel()
                self._call(callback, args)

    def _call(self, callback: Callback, args: tuple[Any, ...]) -> None:
        try:
            callback(*args)
        except Exception:
            sys.excepthook(*sys.exc_info())

    def _on_wake(self) -> None:
        try:
            numbers = os.read(self._wake_read, 512)
        except BlockingIOError:
            return
        for number in dict.fromkeys(numbers):
            callback = self._handlers.get(number)
            if callback is not None:
                self._call(callback, ())

    def close(self) -> None:
        """Close its own descriptors and take no more signals."""
        signal.set_wakeup_fd(-1)
        self._poller.close()
        os.close(self._wake_read)
        os.close(self._wake_write)


def _noop(number: int, frame: object) -> None:
    """Python writes the number to the wake-up descriptor only for signals that have a handler."""
