"""What differs between operating systems: the Linux way, and a portable one for local mode on others such as macOS.

Nothing outside this module may use what Linux alone has; tests/unit/test_portability.py looks for it. Where there is no
portable way the function does nothing, and its docstring says what is then missing.
"""

from __future__ import annotations

import os
import stat
import sys

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from selectors import BaseSelector
    from typing import Protocol

    class Poller(Protocol):
        """The part of `select.epoll` that the event loop uses."""

        def register(self, fd: int, mask: int, /) -> None:
            """Raises `PermissionError` for a plain file, which never blocks."""

        def modify(self, fd: int, mask: int, /) -> None: ...
        def unregister(self, fd: int, /) -> None: ...
        def poll(self, timeout: float, max_events: int, /) -> list[tuple[int, int]]:
            """`timeout` in seconds; negative: until something happens."""

        def close(self) -> None: ...


LINUX = sys.platform == "linux"
"""A variable, so that tests can take the portable ways on Linux."""
READ = 0x2019 if LINUX else 0x1
"""Mask of a poller: there is something to read, or the other side has closed (EPOLLIN, -ERR, -HUP, -RDHUP)."""
WRITE = 0x1C if LINUX else 0x4
"""Mask of a poller: it can be written to, or the other side has closed (EPOLLOUT, -ERR, -HUP)."""
_PARENT_INTERVAL = 1.0

# waiting for descriptors


def poller() -> Poller:
    if LINUX:
        import select

        return select.epoll()
    import selectors

    return SelectorPoller(selectors.DefaultSelector())


class SelectorPoller:
    """A `Poller` over one of `selectors`: kqueue on macOS."""

    def __init__(self, selector: BaseSelector) -> None:
        self._selector = selector

    def register(self, fd: int, mask: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            raise PermissionError(f"descriptor {fd} is a plain file")
        self._selector.register(fd, _events(mask))

    def modify(self, fd: int, mask: int) -> None:
        self._selector.modify(fd, _events(mask))

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout: float, max_events: int) -> list[tuple[int, int]]:
        found = self._selector.select(None if timeout < 0 else timeout)
        return [(key.fd, events & 1 | (events & 2) << 1) for key, events in found]

    def close(self) -> None:
        self._selector.close()


def _events(mask: int) -> int:
    """`selectors` counts from 1: EVENT_READ, EVENT_WRITE."""
    return mask & 1 | (mask & 4) >> 1


# processes


def reap(before: Callable[[int], None]) -> Iterator[tuple[int, int]]:
    """Each child that has ended: its pid and wait status.

    `before` is called with the pid while no other process can have it. Elsewhere than on Linux that is after the wait,
    when it is still the id of a process group that has members left.
    """
    while True:
        try:
            if LINUX:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None:
                    return
                before(ended.si_pid)
                yield os.waitpid(ended.si_pid, 0)
            else:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                before(pid)
                yield pid, status
        except ChildProcessError:
            return


def close_from(first: int) -> None:
    """Close every descriptor from this number on."""
    if LINUX:
        os.closerange(first, os.sysconf("SC_OPEN_MAX"))
        return
    for name in os.listdir("/dev/fd"):
        if int(name) >= first:
            try:  # noqa: SIM105 - contextlib is not worth its import here
                os.close(int(name))
            except OSError:
                pass


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; exit at once when it already has.

    Linux alone: elsewhere `watch_parent` does it for the agent, and a runtime process ends once it asks for work and
    its agent is gone. The kernel's "parent" is the thread that started the process: it must live as long as the process
    is to. Only local mode uses this: ctypes costs 8 ms.
    """
    if not LINUX:
        return
    import ctypes

    pr_set_pdeathsig, sigkill = 1, 9
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, sigkill, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def watch_parent(parent_pid: int, call_later: Callable[[float, Callable[[], None]], object]) -> None:
    """The portable way for a process with an event loop: look once a second whether the parent has ended, then exit."""
    if LINUX:
        return

    def look() -> None:
        if os.getppid() != parent_pid:
            os._exit(1)
        call_later(_PARENT_INTERVAL, look)

    look()


def end_first_when_out_of_memory() -> None:
    """Out of memory, the kernel is to end this process before the others of its container. Nothing elsewhere."""
    if not LINUX:
        return
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"1000")
        os.close(fd)
    except OSError:
        pass


def peak_memory_mib(pid: int) -> int:
    """The most physical memory a process has held (VmHWM), in MiB rounded up; 0 where it is not known."""
    if not LINUX:
        return 0
    try:
        fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        text = os.read(fd, 4096)
    except OSError:
        return 0
    finally:
        os.close(fd)
    _, found, rest = text.partition(b"VmHWM:")
    if not found:
        return 0
    return -(-int(rest.split(None, 1)[0]) // 1024)


def owner(pid: int) -> int:
    """The uid a process runs as; -1 when it has ended. Only a pod with a sidecar asks: Linux."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def environment(pid: int) -> bytes | None:
    """The variables a process was started with, NUL between them; None when they cannot be read. As `owner`."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read(1024 * 1024)
    except OSError:
        return None


def pids() -> list[int]:
    """Every process of the pod. As `owner`."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


# pipes and files


def unread(write_end: int) -> int:
    """Bytes in a pipe that its reader has not taken. Elsewhere 0, as if a reader that died had read everything."""
    if not LINUX:
        return 0
    import fcntl
    import termios

    count = bytearray(4)
    fcntl.ioctl(write_end, termios.FIONREAD, count)
    return int.from_bytes(count, sys.byteorder)


def own_stdout() -> int:
    """A descriptor of stdout that does not block.

    On Linux it is opened again, so that others that share stdout still block; elsewhere they do not.
    """
    mode = os.fstat(1).st_mode
    if LINUX and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        try:
            return os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            pass
    if not stat.S_ISREG(mode):
        os.set_blocking(1, False)
    return 1
