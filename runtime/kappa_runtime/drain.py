"""How an agent stops: what it waits for, one thing after the other, and for how long."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the part of `signal` that needs no enum
from collections.abc import Callable

from kappa_core import wire

TYPE_CHECKING = False  # `typing` would be loaded for annotations alone
if TYPE_CHECKING:
    from typing import Final

    from kappa_runtime.agent import Agent
    from kappa_runtime.loop import TimerHandle
    from kappa_runtime.server import AgentProtocol

LINGER: Final = 0.5
"""Seconds after SIGTERM in which the agent still answers `draining`, while a gateway is connected: a request that is on
its way gets an answer, not a broken connection."""
STOP_GRACE: Final = 2.0
"""Seconds between a runtime process's SIGTERM and its SIGKILL when the agent ends."""
FLUSH_GRACE: Final = 1.0
"""Seconds for the last answers and log lines."""
_DRAINED: Final = b'{"state": "drained"}'


class Drain:
    """Running invocations end; the runtime processes end; gateways see to the events that were answered; the loop stops."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._began: float | None = None
        """When, by the loop's time; None: the agent was not told to stop."""
        self._drained = False
        self._told: list[AgentProtocol] = []
        self._hope: tuple[Callable[[], bool], Callable[[], None]] | None = None
        """What is waited for, and what comes then."""
        self._timer: TimerHandle | None = None

    def begin(self) -> None:
        if self._began is not None:
            return
        agent = self._agent
        agent.readiness.draining()
        self._began = agent.loop.time()
        self._until(lambda: not agent.in_flight, self._began + agent.config.drain_timeout, self._stop_processes)

    def tell(self, caller: AgentProtocol) -> None:
        """Answer `wire.DRAIN_PATH` once nothing runs any more."""
        if self._drained:
            caller.respond_json(200, _DRAINED)
        else:
            self._told.append(caller)

    def look(self) -> None:
        """Something has ended: what is waited for may have come about."""
        if self._hope is not None and self._hope[0]():
            self._go_on()

    def _stop_processes(self) -> None:
        agent = self._agent
        if agent.in_flight:
            agent.give_up_all()
        self._drained = True
        for caller in self._told:
            caller.respond_json(200, _DRAINED)
        agent.stop_processes(_signal.SIGTERM)
        # a handler that they have for the signal runs once their wait for work ends
        agent.hang_up()
        self._until(lambda: not agent.running, agent.loop.time() + STOP_GRACE, self._kill_processes)

    def _kill_processes(self) -> None:
        agent = self._agent
        agent.stop_processes(_signal.SIGKILL)
        assert self._began is not None
        self._until(lambda: not agent.connections, self._began + LINGER, self._wait_for_gateways)

    def _wait_for_gateways(self) -> None:
        """Those that got answers to events, and those that take over from one that died."""
        agent = self._agent
        agent.keep_shorter()
        self._until(lambda: not agent.unseen(), agent.loop.time() + wire.KEPT_DRAIN_SECONDS, self._close)

    def _close(self) -> None:
        agent = self._agent
        agent.close()
        deadline = agent.loop.time() + FLUSH_GRACE
        self._until(lambda: not agent.connections, deadline, lambda: self._flush(deadline))

    def _flush(self, deadline: float) -> None:
        agent = self._agent
        agent.output.flush()
        if agent.output.pending and agent.loop.time() < deadline:
            agent.loop.call_later(0.01, self._flush, deadline)
        else:
            agent.loop.stop()

    def _until(self, done: Callable[[], bool], deadline: float, then: Callable[[], None]) -> None:
        """Call `then` in a later turn: when `look` finds that `done`, or at the loop's time `deadline`."""
        loop = self._agent.loop
        self._hope = (done, then)
        self._timer = loop.call_later(max(0.0, deadline - loop.time()), self._go_on)
        self.look()

    def _go_on(self) -> None:
        if self._hope is None:
            return
        (_, then), self._hope = self._hope, None
        if self._timer is not None:
            self._timer.cancel()
        self._agent.loop.call_soon(then)
