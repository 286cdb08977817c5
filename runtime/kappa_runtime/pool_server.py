"""A pool pod's agent while it is nobody's: it answers probes, and the first good `specialize` request takes it."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the part of `signal` that needs no enum
import os
import time
from collections.abc import Mapping

from kappa_core import specialize as request_format
from kappa_core import wire
from kappa_core.agent_config import PoolConfig
from kappa_runtime import ahead, errors, launch, specialize
from kappa_runtime.agent import Agent
from kappa_runtime.http_protocol import HttpProtocol, Request
from kappa_runtime.loop import EventLoop
from kappa_runtime.output import Output, own_stdout
from kappa_runtime.readiness import Readiness
from kappa_runtime.runtime_api import RuntimeApiProtocol
from kappa_runtime.server import AgentProtocol, BadRequest
from kappa_runtime.transport import Server
from kappa_runtime.waiting import Waiting

TYPE_CHECKING = False  # `typing` would be loaded for annotations alone
if TYPE_CHECKING:
    from typing import Final

_SPECIALIZE: Final = wire.SPECIALIZE_PATH.encode()
_READY: Final = wire.READY_PATH.encode()
_HEALTH: Final = wire.HEALTH_PATH.encode()
_DRAIN: Final = wire.DRAIN_PATH.encode()
_INVOKE: Final = wire.INVOKE_PATH.encode()
_REFUSED: Final = f"Content-Type: application/json\r\n{wire.REFUSED}: %b\r\n".encode()


class Pool:
    """`agent` is None until it is taken."""

    def __init__(self, config: PoolConfig, env: Mapping[str, str], listen_fd: int, api_fd: int, api_port: int) -> None:
        self.config = config
        self.env = env
        self.loop = EventLoop()
        self.started = time.time()
        self.agent: Agent | None = None
        self.connections: set[PoolProtocol] = set()
        self.readiness = Readiness(self.loop)
        self.output = Output(self.loop, own_stdout(), self.pause_output)
        self.verify = specialize.verifier(config.pool_public_key)
        self.api_port = api_port
        self.waiting = Waiting(self.loop, config, api_port, self.output, self._waits_or_not)
        self.told_when_drained: list[PoolProtocol] = []
        self.api_server = Server(self.loop, api_fd, lambda: RuntimeApiProtocol(self.waiting, wire.MAX_RESPONSE_BYTES))
        self.server = Server(self.loop, listen_fd, lambda: PoolProtocol(self))

    def serve(self, start: ahead.Start) -> None:
        """Until SIGTERM or SIGINT: at once while it is nobody's, then as any agent."""
        for number in (_signal.SIGTERM, _signal.SIGINT):
            self.loop.add_signal_handler(number, self._stop)
        self.loop.add_signal_handler(_signal.SIGCHLD, self._reap)
        self.waiting.adopt(start)
        self._reap()
        specialize.rehearse(self)
        if launch.stop_requested:
            self._stop()
        self.loop.run()

    def _waits_or_not(self) -> None:
        self.readiness.waits_in_pool(self.waiting.waits)

    def pause_output(self, paused: bool) -> None:
        self.waiting.pause_output(paused)

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            waited = ended.si_pid == self.waiting.pid
            if waited:
                # what is left of its group, while its id is not yet free for others
                self.waiting.kill()
            _, status = os.waitpid(ended.si_pid, 0)
            if waited:
                self.waiting.on_exit(status)

    def _stop(self) -> None:
        """Nothing runs and nobody is waited for."""
        self.readiness.draining()
        for caller in self.told_when_drained:
            caller.respond_json(200, b'{"state": "drained"}')
        self.waiting.give_up()
        self.output.flush()
        self.loop.stop()


class PoolProtocol(AgentProtocol):
    """A connection that was opened while the pod was nobody's, or later to the agent that it has become."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        if pool.agent is not None:
            super().__init__(pool.agent, pool.agent.config.max_request_bytes)
        else:
            HttpProtocol.__init__(self, request_format.MAX_BODY_BYTES)
            self._kept = None
            pool.connections.add(self)

    def belong_to(self, agent: Agent) -> None:
        self._agent = agent
        self.max_body = agent.config.max_request_bytes
        agent.connections.add(self)

    def closed(self) -> None:
        if self._pool.agent is not None:
            super().closed()
        else:
            self._pool.connections.discard(self)
            self._pool.readiness.forget(self)

    def handle(self, request: Request) -> None:
        if self._pool.agent is not None:
            super().handle(request)
            return
        path = request.path
        if path == _SPECIALIZE:
            self._specialize(request)
        elif path == _READY:
            self.answer_ready(request, self._pool.readiness)
        elif path == _HEALTH:
            self.respond_json(200, b'{"status":"ok"}')
        elif path == _DRAIN:
            self._pool.told_when_drained.append(self)
        elif path == _INVOKE:
            self._refuse_with(503, wire.REFUSED_POOL, "this pod is in a pool and nobody's yet; nothing was run")
        else:
            self.fail(
                404,
                "NotFound",
                f"the agent of a pool pod has no {path.decode(errors='replace')}: it serves {wire.SPECIALIZE_PATH},"
                f" {wire.READY_PATH} and {wire.HEALTH_PATH}",
            )

    def handle_other(self, request: Request) -> None:
        if request.path == _SPECIALIZE:
            self._refuse_with(409, wire.REFUSED_TAKEN, "this pod is a Function's already; nothing was run")
        else:
            super().handle_other(request)

    def _specialize(self, request: Request) -> None:
        began = time.perf_counter()
        if request.method != b"POST":
            self.fail(405, "MethodNotAllowed", f"{wire.SPECIALIZE_PATH}: POST")
            return
        if request.too_large:
            self.fail(413, "RequestTooLarge", f"a specialize request is at most {self.max_body} bytes")
            return
        try:
            received = specialize.read(self._pool, request)
            self.check_invocation(request, received.specialization.request_id)
            request.body = received.payload
        except (request_format.Malformed, BadRequest) as error:
            self.fail(400, "InvalidRequest", str(error))
        except request_format.Refused as refused:
            self._refuse_with(403, refused.reason, f"{refused}; nothing was run")
        else:
            specialize.become_agent(self._pool, received, began)
            self.invoke(request)

    def _refuse_with(self, status: int, reason: str, message: str) -> None:
        self.respond(status, _REFUSED % reason.encode(), errors.body("Kappa.Refused", message))
