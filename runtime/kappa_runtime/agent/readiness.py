"""Whether the pod can take invocations, and which callers wait for that or for the end of draining."""

from __future__ import annotations

from kappa_core import wire
from kappa_runtime.io.http_protocol import HttpProtocol
from kappa_runtime.io.loop import EventLoop, TimerHandle

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from typing import Final

_DRAINED: Final = b'{"state": "drained"}'


class DrainWaiters:
    """Callers of `wire.DRAIN_PATH`: answered once the agent stops and nothing runs any more."""

    def __init__(self) -> None:
        self._drained = False
        self._waiting: list[HttpProtocol] = []

    def add(self, caller: HttpProtocol) -> None:
        if self._drained:
            caller.respond_json(200, _DRAINED)
        else:
            self._waiting.append(caller)

    def drained(self) -> None:
        self._drained = True
        for caller in self._waiting:
            caller.respond_json(200, _DRAINED)


class Readiness:
    """`READY_PATH`: initializing until a runtime process asks for work (ready) or its start fails (init_failed)."""

    def __init__(self, loop: EventLoop, whose: dict[str, object] | None = None) -> None:
        """`whose`: added to every answer, of a pool pod: which Function it has been given."""
        self.state = wire.INITIALIZING
        self.init_error: dict[str, object] | None = None
        self._whose = whose or {}
        self._init_ms = 0.0
        self._loop = loop
        self._waiting: dict[HttpProtocol, TimerHandle] = {}

    def ready(self, init_ms: float) -> None:
        if self.state == wire.DRAINING:
            return
        self.state = wire.READY
        self.init_error = None
        self._init_ms = init_ms
        self._notify()

    def failed(self, error: dict[str, object]) -> None:
        if self.state == wire.DRAINING:
            return
        self.state = wire.INIT_FAILED
        self.init_error = error
        self._notify()

    def waits_in_pool(self, waits: bool) -> None:
        """Of a pool pod without a function: whether its runtime process waits for one."""
        self.state = wire.POOL if waits else wire.INITIALIZING
        if waits:
            self._notify()

    def pass_on(self, other: Readiness) -> None:
        """The pod has a function now: those who wait get the answer of its readiness, as it is now."""
        waiting, self._waiting = self._waiting, {}
        for caller, timer in waiting.items():
            timer.cancel()
            other.answer(caller, 0)

    def draining(self) -> None:
        self.state = wire.DRAINING
        self._notify()

    def answer(self, caller: HttpProtocol, wait: float) -> None:
        """Answer a request now, or when it is known and at most `wait` seconds later."""
        if self.state == wire.INITIALIZING and wait > 0:
            self._waiting[caller] = self._loop.call_later(wait, self._expire, caller)
        else:
            self._send(caller)

    def forget(self, caller: HttpProtocol) -> None:
        timer = self._waiting.pop(caller, None)
        if timer is not None:
            timer.cancel()

    def _expire(self, caller: HttpProtocol) -> None:
        self._waiting.pop(caller, None)
        self._send(caller)

    def _notify(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for caller, timer in waiting.items():
            timer.cancel()
            self._send(caller)

    def _send(self, caller: HttpProtocol) -> None:
        if self.state == wire.READY and not self._whose:
            caller.respond_json(200, b'{"state": "ready", "initDurationMs": %.1f}' % self._init_ms)
            return
        import json

        body: dict[str, object] = {"state": self.state, **self._whose}
        if self.state == wire.INIT_FAILED and self.init_error is not None:
            body |= self.init_error
        elif self.state == wire.READY:
            body["initDurationMs"] = round(self._init_ms, 1)
        status = 200 if self.state in (wire.READY, wire.POOL) else 503
        caller.respond_json(status, json.dumps(body, ensure_ascii=False).encode(errors="backslashreplace"))
