"""A pool pod's runtime process before it has a function: kept ready for its order, started again when it dies.

Ready means: it has imported, and has answered the one invocation that it gets here, the rehearsal. Its own side is
`start.prepared_process`.
"""

from __future__ import annotations

import os
import sys
import time

from kappa_core.agent_config import PoolConfig
from kappa_runtime.imports import signal
from kappa_runtime.io.loop import EventLoop, TimerHandle
from kappa_runtime.io.output import Output, Pipe
from kappa_runtime.start import spawn
from kappa_runtime.start.child import Child
from kappa_runtime.start.prepared import PreparedChild, order_pipe
from kappa_runtime.start.prepared_process import REHEARSAL
from kappa_runtime.worker import errors
from kappa_runtime.worker.invocation import Answer, Invocation
from kappa_runtime.worker.runtime_api import RuntimeApiProtocol

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

IMPORT_LIMIT: Final = 60.0
"""Seconds until it is ready; after that it is started again, and imports nothing that it need not."""
LONGEST_PAUSE: Final = 30.0
"""Seconds before a start, at most. The first comes at once, each further one after twice as long, until a process has
been ready for this long."""
FIRST_PAUSE: Final = 0.25


class Rehearsal:
    """As `runtime_api.Runtime` it gives the process the rehearsal; as `prepared.Source` it hands the process over."""

    def __init__(
        self,
        loop: EventLoop,
        config: PoolConfig,
        api_port: int,
        output: Output,
        child: PreparedChild,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when the process gets ready, and when it is not any more."""
        self.ready = False
        self._loop = loop
        self._config = config
        self._api_port = api_port
        self._output = output
        self._changed = changed
        self._child: PreparedChild | None = None
        self._taken: PreparedChild | None = None
        """It has its order already, and is to answer the rehearsal still."""
        self._pipe: Pipe | None = None
        self._timer: TimerHandle | None = None
        self._ready_since = 0.0
        self._pause = 0.0
        self._plain = False
        """Import nothing that need not be: the last process did not survive its imports."""
        self._adopt(child)

    @property
    def pid(self) -> int:
        return self._child.pid if self._child is not None else 0

    def _adopt(self, child: PreparedChild) -> None:
        self._child = child
        self._pipe = Pipe(self._loop, child.output, self._output, whole_lines=True)
        self._set_timer(IMPORT_LIMIT, self.kill)

    def take(self, content: bytes) -> Child | None:
        child = self._child
        if child is None:
            self._clear_timer()
            return None
        if not child.give(content):
            # it has just died, or there are more variables than the pipe holds
            self.give_up()
            return None
        self._clear_timer()
        self._release_pipe()
        self._child = None
        if self.ready:
            child.rehearsed()
        else:
            self._taken = child
        return child

    def give_up(self) -> None:
        """It is not what the function needs, or the agent ends: end it."""
        self._clear_timer()
        child, self._child = self._child, None
        if child is not None:
            self._release_pipe()
            _kill(child.pid)
            child.abandon()

    def kill(self) -> None:
        """End it and what it started; `on_exit` follows."""
        if self._child is not None:
            _kill(self._child.pid)

    def on_exit(self, status: int) -> None:
        """It has died, and was reaped: start another one."""
        child, self._child = self._child, None
        assert child is not None
        self._clear_timer()
        if self._pipe is not None:
            self._pipe.drain()
        self._release_pipe()
        child.abandon()
        self._output.line(
            f"kappa: pool: the runtime process that {'waited' if self.ready else 'was to wait'} has ended"
            f" ({errors.exited(status)}): it is started again\n".encode()
        )
        if not self.ready:
            self._plain = True
        elif self._loop.time() - self._ready_since > LONGEST_PAUSE:
            self._pause = 0.0
        self.ready = False
        self._changed()
        self._start_later()

    def _start_later(self) -> None:
        self._set_timer(self._pause, self._start)
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)

    def _start(self) -> None:
        read_end, write_end = order_pipe()
        os.set_inheritable(read_end, True)
        config = self._config
        modules = "" if self._plain else config.pool_preload
        command = [sys.executable, "-I", "-B", "-m", "kappa_runtime.start.prepared_process"]
        try:
            child = spawn.execute(
                [*command, str(read_end), str(self._api_port), config.runtime, config.task_root, modules],
                os.environ,
                config.task_root,
                parent_death=config.parent_death,
            )
        except OSError as error:
            os.close(write_end)
            self._output.line(f"kappa: pool: no process can be started: {error}\n".encode())
            self._start_later()
        else:
            self._adopt(PreparedChild(child, write_end))
        finally:
            os.close(read_end)

    # as `runtime_api.Runtime`

    def on_next(self, connection: RuntimeApiProtocol) -> None:
        invocation = Invocation(REHEARSAL, b'{"name": "kappa"}', self)
        invocation.arn = b"arn:aws:lambda:us-east-1:000000000000:function:rehearsal"
        invocation.trace_id = b"Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0"
        connection.send(invocation, int((time.time() + IMPORT_LIMIT) * 1000))

    def is_running(self, request_id: str) -> bool:
        return request_id == REHEARSAL and not self.ready

    def on_response(self, body: bytes, content_type: bytes) -> None:
        self.ready = True
        taken, self._taken = self._taken, None
        if taken is not None:
            taken.rehearsed()
            return
        self._clear_timer()
        self._ready_since = self._loop.time()
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

    def _release_pipe(self) -> None:
        if self._pipe is not None:
            self._pipe.release()
            self._pipe = None

    def _set_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self._clear_timer()
        self._timer = self._loop.call_later(seconds, callback)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _kill(pid: int) -> None:
    try:  # noqa: SIM105
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
