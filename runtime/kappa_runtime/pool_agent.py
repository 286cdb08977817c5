"""The composition of a pool pod's agent: without a function, and as a Function's once a request has given it one."""

from __future__ import annotations

import base64
import os
import time

from nacl.signing import SigningKey

from kappa_core import names, wire
from kappa_core import specialize as request_format
from kappa_core.agent_config import AgentConfig, PoolConfig
from kappa_core.specialize import Received, Specialization
from kappa_runtime import platform
from kappa_runtime.agent import specialize
from kappa_runtime.agent.agent import Agent
from kappa_runtime.agent.drain import Changes, Drain, handle_signals
from kappa_runtime.agent.gateway_http import AgentService, GatewayConnection
from kappa_runtime.agent.pool import PoolService
from kappa_runtime.agent.readiness import DrainWaiters, Readiness
from kappa_runtime.io.loop import EventLoop
from kappa_runtime.io.output import Output
from kappa_runtime.io.transport import Server
from kappa_runtime.start import archive, environment, prepared, spawn
from kappa_runtime.start.child import Child
from kappa_runtime.start.code import FunctionCode
from kappa_runtime.start.prepared import Prepared, PreparedChild
from kappa_runtime.start.prepared_process import REHEARSAL
from kappa_runtime.worker import logs
from kappa_runtime.worker.rehearsal import Rehearsal
from kappa_runtime.worker.runtime_api import RuntimeApi

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class PoolAgent:
    def __init__(
        self,
        config: PoolConfig,
        env: Mapping[str, str],
        listen_fd: int,
        api_fd: int,
        api_port: int,
        child: PreparedChild,
    ) -> None:
        """Raises `ValueError` for a public key that is none."""
        self._config = config
        self._env = env
        self._started = time.time()
        self._verify = specialize.verifier(config.pool_public_key)
        self.loop = loop = EventLoop()
        self._readiness = Readiness(loop)
        self._waiters = DrainWaiters()
        self._output = Output(loop, platform.own_stdout())
        self._api = RuntimeApi(loop, api_fd, api_port)
        self._rehearsal = Rehearsal(loop, config, api_port, self._output, child, self._on_rehearsal)
        self._api.serve(self._rehearsal, wire.MAX_RESPONSE_BYTES)
        service = PoolService(self._readiness, self._waiters, self._read, self._become)
        self._service = service
        self._server = Server(loop, listen_fd, lambda: GatewayConnection(service, request_format.MAX_BODY_BYTES))

    def serve(self, stop_requested: Callable[[], bool]) -> int:
        """Until SIGTERM or SIGINT: at once while there is no function, then as any agent. The exit status."""
        handle_signals(self.loop, self._stop, self._reap)
        self._reap()
        self._warm_up()
        if stop_requested():
            self._stop()
        self.loop.run()
        return 0

    def _on_rehearsal(self) -> None:
        self._readiness.waits_in_pool(self._rehearsal.ready)

    def _reap(self) -> None:
        for pid, status in platform.reap(self._kill_rest):
            if pid == self._rehearsal.pid:
                self._rehearsal.on_exit(status)

    def _kill_rest(self, pid: int) -> None:
        if pid == self._rehearsal.pid:
            self._rehearsal.kill()

    def _stop(self) -> None:
        """Nothing runs, so nothing is waited for."""
        self._readiness.draining()
        self._waiters.drained()
        self._rehearsal.give_up()
        self._output.flush()
        self.loop.stop()

    def _read(self, body: bytes) -> Received:
        return specialize.read(body, self._config, self._started, self._verify)

    def _become(self, received: Received, began: float) -> AgentService:
        """From now on a Function's agent serves, and its runtime process starts."""
        asked = received.specialization
        config = asked.config.replace(**self._config.own())
        code, starter = self._function_parts(config, {**self._env, **asked.env}, received.code)
        changes = Changes()
        key = names.function_key(config.function_namespace, config.function_name)
        readiness = Readiness(self.loop, {"function": key, "specHash": asked.spec_hash})
        specialized = began, time.perf_counter()
        agent = Agent(config, self.loop, self._output, readiness, code, starter, self._api, changes.notify, specialized)
        service = AgentService(agent, self._waiters, changes.notify, pooled=True)
        drain = Drain(config, self.loop, self._output, agent, service, self._server, self._waiters, changes)
        handle_signals(self.loop, drain.begin, agent.reap)
        self._server.hand_to(lambda: GatewayConnection(service, config.max_request_bytes))
        for connection in self._service.connections:
            connection.hand_to(service, config.max_request_bytes)
        self._service.connections.clear()
        self._readiness.pass_on(readiness)
        if not specialize.suits_running_interpreter(asked.env, self._env):
            self._rehearsal.give_up()
        agent.start()
        return service

    def _function_parts(
        self, config: AgentConfig, env: Mapping[str, str], zipped: bytes
    ) -> tuple[FunctionCode, Prepared]:
        def unpack() -> None:
            archive.unpack_bytes(zipped, config.task_root, config.code_archive_url)

        code = FunctionCode(config, env, _fetch, unpack if zipped else None)
        return code, Prepared(self._rehearsal, config, env, code, spawn.Spawn(config, env, code))

    def _warm_up(self) -> None:
        """Do once what the first request needs, with a key of its own, so that its memory is touched; nothing of it
        stays."""
        config = AgentConfig(function_name=REHEARSAL, handler="main.handler", runtime=self._config.runtime)
        key = SigningKey(bytes(32))
        asked = Specialization(
            pod_uid="", request_id=REHEARSAL, spec_hash="", issued_at=self._started, config=config, env={}
        )
        body = request_format.encode(asked, code=b"", payload=b"{}", sign=lambda message: key.sign(message).signature)
        verify = specialize.verifier(base64.b64encode(bytes(key.verify_key)).decode())
        received = request_format.read(body, pod_uid="", now=self._started, agent_started=self._started, verify=verify)
        config = received.specialization.config.replace(**self._config.own())
        code, starter = self._function_parts(config, self._env, b"")
        changes = Changes()
        agent = Agent(config, self.loop, self._output, Readiness(self.loop), code, starter, self._api, changes.notify)
        AgentService(agent, self._waiters, changes.notify)
        variables = environment.variables(config, self._env, self._api.port)
        prepared.order(variables, config.handler, config.task_root)
        peak = platform.peak_memory_mib(os.getpid())
        logs.end_lines("", duration_ms=0.0, memory_mib=0, max_memory_mib=peak, init_ms=0.0)


def _fetch(env: Mapping[str, str], parent_death: bool) -> Child:
    """A pool pod has loaded what fetching takes: 200 ms of an interpreter's start and imports."""
    return spawn.run_loaded(archive.main, env, "/", parent_death=parent_death)
