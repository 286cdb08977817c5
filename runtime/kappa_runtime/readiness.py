"""Whether the pod can take invocations, and who waits to hear it."""

from __future__ import annotations

from kappa_core import wire

TYPE_CHECKING = False  # `typing` would be loaded for annotations alone
if TYPE_CHECKING:
    from kappa_runtime.loop import EventLoop, TimerHandle
    from kappa_runtime.server import AgentProtocol


class Readiness:
    """`READY_PATH`: initializing until a runtime process asks for work or its start fails, then ready or init_failed."""

    def __init__(self, loop: EventLoop) -> None:
        self.state = wire.INITIALIZING
        self.init_error: dict[str, object] | None = None
        self.whose: dict[str, object] = {}
        """In every answer: of a pool pod, which Function's it has become."""
        self._init_ms = 0.0
        self._loop = loop
        self._waiting: dict[AgentProtocol, TimerHandle] = {}

    def ready(self, init_ms: float) -> None:
        if self.state == wire.DRAINING:
            return
        self.state = wire.READY
        self.init_error = None
        self._init_ms = init_ms
        self._tell()

    def failed(self, error: dict[str, object]) -> None:
        if self.state == wire.DRAINING:
            return
        self.state = wire.INIT_FAILED
        self.init_error = error
        self._tell()

    def waits_in_pool(self, waits: bool) -> None:
        """Of a pool pod that is nobody's: whether its runtime process waits."""
        self.state = wire.POOL if waits else wire.INITIALIZING
        if waits:
            self._tell()

    def pass_on(self, other: Readiness) -> None:
        """Those who wait get the other's answer, as it is now: the pod has become a Function's."""
        waiting, self._waiting = self._waiting, {}
        for caller, timer in waiting.items():
            timer.cancel()
            other.answer(caller, 0)

    def draining(self) -> None:
        self.state = wire.DRAINING
        self._tell()

    def answer(self, caller: AgentProtocol, wait: float) -> None:
        """Answer a request now, or when it is known and at most `wait` seconds later."""
        if self.state == wire.INITIALIZING and wait > 0:
            self._waiting[caller] = self._loop.call_later(wait, self._expire, caller)
        else:
            self._send(caller)

    def forget(self, caller: AgentProtocol) -> None:
        timer = self._waiting.pop(caller, None)
        if timer is not None:
            timer.cancel()

    def _expire(self, caller: AgentProtocol) -> None:
        self._waiting.pop(caller, None)
        self._send(caller)

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for caller, timer in waiting.items():
            timer.cancel()
            self._send(caller)

    def _send(self, caller: AgentProtocol) -> None:
        if self.state == wire.READY and not self.whose:
            caller.respond_json(200, b'{"state": "ready", "initDurationMs": %.1f}' % self._init_ms)
            return
        import json

        body: dict[str, object] = {"state": self.state, **self.whose}
        if self.state == wire.INIT_FAILED and self.init_error is not None:
            body |= self.init_error
        elif self.state == wire.READY:
            body["initDurationMs"] = round(self._init_ms, 1)
        status = 200 if self.state in (wire.READY, wire.POOL) else 503
        caller.respond_json(status, json.dumps(body, ensure_ascii=False).encode(errors="backslashreplace"))
