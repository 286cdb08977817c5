"""A process that was started before its function is known: its order, and the `Starter` that gives it the order.

It is a pool pod's first runtime process. `prepared_process` is its own side, `worker.rehearsal` keeps one ready.
"""

from __future__ import annotations

import marshal
import os
import time

from kappa_core.agent_config import AgentConfig
from kappa_runtime import platform
from kappa_runtime.start import environment
from kappa_runtime.start.child import Child, Starter
from kappa_runtime.start.code import FunctionCode

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol
else:
    Protocol = object


def order_pipe() -> tuple[int, int]:
    """Its read end, its write end. Writing never blocks: an order that the pipe does not hold (64 KiB) is not given."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    return read_end, write_end


def order(variables: dict[str, str], handler: str, task_root: str) -> bytes:
    """The message with which the process becomes this function's."""
    content = marshal.dumps((variables, handler, task_root))
    return len(content).to_bytes(4, "big") + content


def read_order(order_fd: int) -> tuple[dict[str, str], str, str] | None:
    """Wait for the order. None: the agent has ended, there will be none."""
    length = int.from_bytes(os.read(order_fd, 4), "big")
    if not length:
        return None
    content = b""
    while len(content) < length:
        part = os.read(order_fd, length - len(content))
        if not part:
            return None
        content += part
    variables, handler, task_root = marshal.loads(content)  # noqa: S302 - the agent wrote it
    return variables, handler, task_root


class PreparedChild(Child):
    """A process that waits for its order at the other end of `order_fd`."""

    __slots__ = ("_callback", "_order_fd", "_rehearsing")

    def __init__(self, child: Child, order_fd: int) -> None:
        super().__init__(child.pid, child.output, child.started)
        self._order_fd = order_fd
        self._rehearsing = True
        self._callback: Callable[[], None] | None = None

    def give(self, content: bytes) -> bool:
        """Give it its order, whose start begins now. False: it has just died, or the pipe does not hold the order."""
        self.started = time.perf_counter()
        try:
            return os.write(self._order_fd, content) == len(content)
        except OSError:
            return False

    def rehearsed(self) -> None:
        """It has answered the rehearsal: what it asks for next comes from the function."""
        self._rehearsing = False
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def when_requests_are_the_functions(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        if not self._rehearsing:
            self.rehearsed()

    def on_serving(self) -> None:
        self._close()

    def ended_unaware(self) -> bool:
        unaware = self._order_fd >= 0 and platform.unread(self._order_fd) > 0
        self._close()
        return unaware

    def abandon(self) -> None:
        """It gets no order: close the descriptors that belong to it."""
        self._close()
        os.close(self.output)

    def _close(self) -> None:
        fd, self._order_fd = self._order_fd, -1
        if fd >= 0:
            os.close(fd)


class Source(Protocol):
    """Who keeps a process prepared: `worker.rehearsal.Rehearsal`."""

    def take(self, content: bytes) -> Child | None:
        """Give it this order; it is the caller's from now on. None: there is none that could be given it."""


class Prepared:
    """The `Starter` of a pool pod's first process. Later ones, and one that cannot be, start by `later`."""

    def __init__(
        self, source: Source, config: AgentConfig, env: Mapping[str, str], code: FunctionCode, later: Starter
    ) -> None:
        self._source: Source | None = source
        self._config = config
        self._env = env
        self._code = code
        self._later = later

    def start(self, api_port: int) -> Child:
        source, self._source = self._source, None
        if source is None:
            return self._later.start(api_port)
        config = self._config
        self._code.place()
        variables = environment.variables(config, self._env, api_port)
        child = source.take(order(variables, config.handler, config.task_root))
        return self._later.start(api_port) if child is None else child
