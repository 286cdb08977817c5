"""How an agent stops: what it waits for, one thing after the other, and for how long."""

from __future__ import annotations

from kappa_core import wire
from kappa_core.agent_config import AgentConfig
from kappa_runtime.agent.agent import Agent
from kappa_runtime.agent.readiness import DrainWaiters
from kappa_runtime.imports import signal
from kappa_runtime.io.http_protocol import HttpProtocol
from kappa_runtime.io.loop import EventLoop, TimerHandle
from kappa_runtime.io.output import Output
from kappa_runtime.io.transport import Server

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, Protocol
else:
    Protocol = object

LINGER: Final = 0.5
"""Seconds after SIGTERM in which the agent still answers `draining`, while a gateway is connected: a request that is on
its way gets an answer, not a broken connection."""
STOP_GRACE: Final = 2.0
"""Seconds between a runtime process's SIGTERM and its SIGKILL when the agent ends."""
FLUSH_GRACE: Final = 1.0
"""Seconds for the last answers and log lines."""


class Changes:
    """An invocation, a process, a connection or a kept answer has ended, which draining may wait for."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[], None]] = []

    def subscribe(self, callback: Callable[[], None]) -> None:
        self._subscribers.append(callback)

    def notify(self) -> None:
        for callback in self._subscribers:
            callback()


def handle_signals(loop: EventLoop, stop: Callable[[], None], reap: Callable[[], None]) -> None:
    """`stop` on SIGTERM and SIGINT, `reap` when a child has ended."""
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGCHLD, reap)


class Front(Protocol):
    """The gateway's side of the agent: `gateway_http.AgentService`."""

    @property
    def connections(self) -> set[HttpProtocol]: ...
    def unhandled(self) -> int: ...
    def keep_shorter(self) -> None: ...
    def close(self) -> None: ...


class Drain:
    """Running invocations end; the runtime processes end; gateways handle the answers to events; the loop stops."""

    def __init__(
        self,
        config: AgentConfig,
        loop: EventLoop,
        output: Output,
        agent: Agent,
        front: Front,
        server: Server,
        waiters: DrainWaiters,
        changes: Changes,
    ) -> None:
        self._config = config
        self._loop = loop
        self._output = output
        self._agent = agent
        self._front = front
        self._server = server
        self._waiters = waiters
        self._changes = changes
        self._began: float | None = None
        """When draining began, by the loop's time; None: it was not."""
        self._condition: Callable[[], bool] | None = None
        """What is waited for."""
        self._then: Callable[[], None] | None = None
        """What comes then."""
        self._timer: TimerHandle | None = None

    def begin(self) -> None:
        if self._began is not None:
            return
        self._began = self._loop.time()
        self._agent.refuse_more()
        self._changes.subscribe(self._look)
        deadline = self._began + self._config.drain_timeout
        self._until(lambda: not self._agent.in_flight, deadline, self._stop_processes)

    def _stop_processes(self) -> None:
        if self._agent.in_flight:
            self._agent.give_up_all()
        self._waiters.drained()
        self._agent.stop_processes(signal.SIGTERM)
        # a handler that they have for the signal runs once their wait for work ends
        self._agent.hang_up()
        self._until(lambda: not self._agent.running, self._loop.time() + STOP_GRACE, self._kill_processes)

    def _kill_processes(self) -> None:
        self._agent.stop_processes(signal.SIGKILL)
        assert self._began is not None
        self._until(lambda: not self._front.connections, self._began + LINGER, self._wait_for_gateways)

    def _wait_for_gateways(self) -> None:
        """Those that got answers to events, and those that take over from one that died."""
        self._front.keep_shorter()
        deadline = self._loop.time() + wire.KEPT_DRAIN_SECONDS
        self._until(lambda: not self._front.unhandled(), deadline, self._close)

    def _close(self) -> None:
        self._server.close()
        self._agent.close()
        self._front.close()
        deadline = self._loop.time() + FLUSH_GRACE
        self._until(lambda: not self._front.connections, deadline, lambda: self._flush(deadline))

    def _flush(self, deadline: float) -> None:
        self._output.flush()
        if self._output.pending and self._loop.time() < deadline:
            self._loop.call_later(0.01, self._flush, deadline)
        else:
            self._loop.stop()

    def _until(self, condition: Callable[[], bool], deadline: float, then: Callable[[], None]) -> None:
        """Call `then` in a later turn: once `condition` holds, or at the loop's time `deadline`."""
        self._condition, self._then = condition, then
        self._timer = self._loop.call_later(max(0.0, deadline - self._loop.time()), self._go_on)
        self._look()

    def _look(self) -> None:
        if self._condition is not None and self._condition():
            self._go_on()

    def _go_on(self) -> None:
        then, self._then, self._condition = self._then, None, None
        if self._timer is not None:
            self._timer.cancel()
        if then is not None:
            self._loop.call_soon(then)
