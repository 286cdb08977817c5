"""A process that was started, the protocol of the ways to start one, and the fork that all of them use."""

from __future__ import annotations

import os
import time

from kappa_runtime import platform
from kappa_runtime.imports import signal

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol
else:
    Protocol = object


class Starter(Protocol):
    """One way to start a runtime process."""

    def start(self, api_port: int) -> Child:
        """Start the one whose Runtime API is at this loopback port.

        Raises `code.CodeUnreadable`, `environment.NoEntrypoint`, and `OSError` when no process can be made.
        """


class Child:
    """A process that was started: its pid (also its process group) and the read end of its output."""

    __slots__ = ("output", "pid", "started")

    def __init__(self, pid: int, output: int, started: float) -> None:
        self.pid = pid
        self.output = output
        self.started = started
        """When its start for the function began, by `time.perf_counter`."""

    def when_requests_are_the_functions(self, callback: Callable[[], None]) -> None:
        """Call it once what the process asks the Runtime API comes from the function: here at once."""
        callback()

    def on_serving(self) -> None:
        """It has asked for its first invocation."""

    def ended_unaware(self) -> bool:
        """Of a process that has ended: whether it never learnt which function it has, so that none of it has run."""
        return False


def fork_child(cwd: str, *, parent_death: bool) -> Child | None:
    """A child in a group of its own, its stdout and stderr one pipe; None in the child itself.

    The agent has one thread, so this is safe. Raises `OSError` when there is no room for another process; where the
    child cannot enter `cwd` it says so in its output and exits with status 127.
    """
    started = time.perf_counter()
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    agent_pid = os.getpid()
    # a SIGTERM for the child would be lost in the agent's handler, which the child has until it has its own
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(read_end)
        os.close(write_end)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(write_end)
        # both sides do it, so that the group exists whoever comes first
        try:  # noqa: SIM105 - contextlib is not imported yet
            os.setpgid(pid, pid)
        except OSError:
            pass
        return Child(pid, read_end, started)
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(write_end, 1)
        os.dup2(write_end, 2)
        for fd in (null, read_end, write_end):
            os.close(fd)
        platform.end_first_when_out_of_memory()
        if parent_death:
            platform.die_with(agent_pid)
        os.chdir(cwd)
    except BaseException as error:
        os.write(2, f"the runtime process cannot be started in {cwd}: {error}\n".encode(errors="replace"))
        os._exit(127)
    return None
