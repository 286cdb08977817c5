"""A pool pod's agent and its runtime process that waits: started, started anew, told what it is. Its own side is `ahead`."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the part of `signal` that needs no enum
import fcntl
import os
import sys
import termios
import time
from collections.abc import Callable, Mapping

from kappa_core.agent_config import AgentConfig, PoolConfig
from kappa_runtime import ahead, errors, launch
from kappa_runtime.invocation import Answer, Invocation
from kappa_runtime.loop import EventLoop, TimerHandle
from kappa_runtime.output import Output, Pipe
from kappa_runtime.runtime_api import RuntimeApiProtocol

TYPE_CHECKING = False  # `typing` would be loaded for annotations alone
if TYPE_CHECKING:
    from typing import Final

IMPORT_LIMIT: Final = 60.0
"""Seconds until it waits; then it is started anew, and imports nothing that it need not."""
LONGEST_PAUSE: Final = 30.0
"""Seconds before a start, at most: the first comes at once, each further one after twice as long, until one has waited for
this long."""
FIRST_PAUSE: Final = 0.25


class Waiting:
    """As `runtime_api.Runtime` it gives the process one invocation, which is the rehearsal; answered, it waits.

    `changed` is called when it waits, and when it does not any more.
    """

    def __init__(
        self, loop: EventLoop, config: PoolConfig, api_port: int, output: Output, changed: Callable[[], None]
    ) -> None:
        self.connections: set[RuntimeApiProtocol] = set()
        self.waits = False
        self._loop = loop
        self._config = config
        self.api_port = api_port
        self._output = output
        self._changed = changed
        self._start: ahead.Start | None = None
        self._told: ahead.Start | None = None
        """It got its order, and has not asked for work yet."""
        self._successor: Callable[[], None] | None = None
        self._pipe: Pipe | None = None
        self._timer: TimerHandle | None = None
        self._waits_since = 0.0
        self._pause = 0.0
        self._plain = False
        """Import nothing that need not be: the last one did not come through its imports."""

    @property
    def pid(self) -> int:
        return self._start.child.pid if self._start is not None else 0

    def adopt(self, start: ahead.Start) -> None:
        self._start = start
        self._pipe = Pipe(self._loop, start.child.output, self._output, whole_lines=True)
        self._set_timer(IMPORT_LIMIT, self.kill)

    def become(self, variables: Mapping[str, str], config: AgentConfig) -> launch.Child | None:
        """Make it the Function's process, whose start begins now. None: it cannot be, and is gone: start another."""
        start = self._start
        if start is None:
            self.finish()
            return None
        order = ahead.order(dict(variables), config.handler, config.task_root)
        start.child.started = time.perf_counter()
        try:
            written = os.write(start.order_fd, order)
        except OSError:
            # it has just died
            written = 0
        if written != len(order):
            # or there are more variables than the pipe holds
            self.give_up()
            return None
        self._clear_timer()
        self._release_pipe()
        self._start, self._told = None, start
        if self.waits:
            self._hand_over()
        return start.child

    def never_knew(self) -> bool:
        """It has ended: whether it did so before it read its order, so that nothing of the Function has run."""
        if self._told is None:
            return False
        unread = bytearray(4)
        fcntl.ioctl(self._told.order_fd, termios.FIONREAD, unread)
        self.finish()
        return any(unread)

    def finish(self) -> None:
        """There is no such process any more: the Function's has begun, or another is started."""
        self._clear_timer()
        self._hand_over()
        start, self._told = self._told, None
        if start is not None:
            os.close(start.order_fd)

    def give_up(self) -> None:
        """It is not what the Function needs: end it."""
        start, self._start = self._start, None
        if start is not None:
            self._release_pipe()
            _kill(start.child.pid)
            os.close(start.order_fd)
            os.close(start.child.output)
        self.finish()

    def hand_over_to(self, callback: Callable[[], None]) -> None:
        """Call it once, when what the Runtime API is asked comes from the Function's process, no more from the rehearsal."""
        self._successor = callback

    def _hand_over(self) -> None:
        successor, self._successor = self._successor, None
        if successor is not None:
            successor()

    def _release_pipe(self) -> None:
        if self._pipe is not None:
            self._pipe.release()

    def kill(self) -> None:
        if self._start is not None:
            _kill(self._start.child.pid)

    def on_exit(self, status: int) -> None:
        """It died, and was reaped: another one."""
        start, self._start = self._start, None
        assert start is not None
        self._clear_timer()
        if self._pipe is not None:
            self._pipe.drain()
            self._pipe.close()
        os.close(start.order_fd)
        self._output.line(
            f"kappa: pool: the runtime process that {'waited' if self.waits else 'was to wait'} has ended"
            f" ({errors.exited(status)}): it is started anew\n".encode()
        )
        if not self.waits:
            self._plain = True
        elif self._loop.time() - self._waits_since > LONGEST_PAUSE:
            self._pause = 0.0
        self.waits = False
        self._changed()
        self._start_later()

    def _start_later(self) -> None:
        self._set_timer(self._pause, self._start_anew)
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)

    def _start_anew(self) -> None:
        read_end, write_end = ahead.order_pipe()
        os.set_inheritable(read_end, True)
        config = self._config
        modules = "" if self._plain else config.pool_preload
        command = [sys.executable, "-I", "-B", "-m", "kappa_runtime.ahead"]
        try:
            child = launch.spawn(
                [*command, str(read_end), str(self.api_port), config.runtime, config.task_root, modules],
                os.environ,
                config.task_root,
                parent_death=config.parent_death,
            )
        except OSError as error:
            os.close(write_end)
            self._output.line(f"kappa: pool: no process can be started: {error}\n".encode())
            self._start_later()
        else:
            self.adopt(ahead.Start(child, write_end))
        finally:
            os.close(read_end)

    def pause_output(self, paused: bool) -> None:
        if self._pipe is not None:
            self._pipe.pause(paused)

    # as `runtime_api.Runtime`

    def on_next(self, connection: RuntimeApiProtocol) -> None:
        invocation = Invocation(ahead.REHEARSAL, b'{"name": "kappa"}', self)
        invocation.arn = b"arn:aws:lambda:us-east-1:000000000000:function:rehearsal"
        invocation.trace_id = b"Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0"
        connection.send(invocation, int((time.time() + IMPORT_LIMIT) * 1000))

    def is_running(self, request_id: str) -> bool:
        return request_id == ahead.REHEARSAL and not self.waits

    def on_response(self, body: bytes, content_type: bytes) -> None:
        self.waits = True
        if self._told is not None:
            self._hand_over()
            return
        self._clear_timer()
        self._waits_since = self._loop.time()
        self._changed()

    def on_error(self, body: bytes, error_type: str) -> None:
        self._output.line(b"kappa: pool: the rehearsal failed: %b\n" % body)
        self.kill()

    def on_response_too_large(self, size: int) -> None:
        self.kill()

    def on_init_error(self, body: bytes, error_type: str) -> bool:
        return False

    def on_connection_lost(self, connection: RuntimeApiProtocol) -> None:
        pass

    def answer(self, invocation: Invocation, answer: Answer) -> None:
        """As `invocation.Caller`."""

    def _set_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self._clear_timer()
        self._timer = self._loop.call_later(seconds, callback)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _kill(pid: int) -> None:
    try:  # noqa: SIM105
        os.killpg(pid, _signal.SIGKILL)
    except ProcessLookupError:
        pass
