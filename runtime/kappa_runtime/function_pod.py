"""A Function's pod: first what a cold start must not wait for, then the agent, put together.

The sockets listen, the code is saved and the first runtime process starts before the rest of the agent is imported. So
the gateway can connect, and the runtime process loads the function's code meanwhile.
"""

from __future__ import annotations

import gc
import os

from kappa_core.agent_config import AgentConfig
from kappa_runtime import platform
from kappa_runtime.start import environment
from kappa_runtime.start.child import Child, Starter, fork_child
from kappa_runtime.start.code import CodeUnreadable, FunctionCode
from kappa_runtime.start.fork import become_python, can_fork
from kappa_runtime.start.sockets import announce, listen

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def begin(config: AgentConfig, env: Mapping[str, str], stop_requested: Callable[[], bool]) -> Callable[[], int]:
    """What this process goes on with: the agent, or in a fork of it the runtime process. It gives the exit status.

    `stop_requested`: whether a SIGTERM has come before the event loop took it. Raises `OSError` when a port is taken.
    """
    parent = os.getppid()
    if config.parent_death:
        platform.die_with(parent)
    listen_fd, port = listen(config.host, config.port)
    if config.announce_fd >= 0:
        announce(config.announce_fd, port)
    api_fd, api_port = listen("127.0.0.1", config.runtime_api_port)
    code = FunctionCode(config, env, _fetch)
    begun: Child | None = None
    if not config.sidecar and code.ready and environment.is_python(config) and can_fork(env):
        try:
            code.place()
        except CodeUnreadable:
            # starting it fails again, and the agent answers with what is wrong
            pass
        else:
            variables = environment.variables(config, env, api_port)
            begun = fork_child(config.task_root, parent_death=config.parent_death)
            if begun is None:
                for fd in (listen_fd, api_fd):
                    os.close(fd)
                become_python(variables, config.handler, config.task_root)
                from kappa_runtime.start import python_runtime

                return python_runtime.main_in_fork

    # imported after the fork, which has no use for it
    from kappa_runtime.start import spawn

    starter: Starter = spawn.Spawn(config, env, code)
    if begun is None and not config.sidecar and code.ready:
        try:  # noqa: SIM105 - contextlib is not worth its import here
            begun = starter.start(api_port)
        except (CodeUnreadable, environment.NoEntrypoint):
            pass
    if begun is not None:
        starter = spawn.Begun(begun, starter)
    return lambda: _serve(config, listen_fd, api_fd, api_port, code, starter, stop_requested, parent)


def _fetch(env: Mapping[str, str], parent_death: bool) -> Child:
    from kappa_runtime.start import spawn

    return spawn.fetch_in_new_interpreter(env, parent_death)


def _serve(
    config: AgentConfig,
    listen_fd: int,
    api_fd: int,
    api_port: int,
    code: FunctionCode,
    starter: Starter,
    stop_requested: Callable[[], bool],
    parent: int,
) -> int:
    from kappa_runtime.agent.agent import Agent
    from kappa_runtime.agent.drain import Changes, Drain, handle_signals
    from kappa_runtime.agent.gateway_http import AgentService, GatewayConnection
    from kappa_runtime.agent.readiness import DrainWaiters, Readiness
    from kappa_runtime.io.loop import EventLoop
    from kappa_runtime.io.output import Output
    from kappa_runtime.io.transport import Server
    from kappa_runtime.worker.runtime_api import RuntimeApi

    gc.freeze()
    gc.enable()
    loop = EventLoop()
    output = Output(loop, platform.own_stdout())
    api = RuntimeApi(loop, api_fd, api_port)
    changes = Changes()
    waiters = DrainWaiters()
    agent = Agent(config, loop, output, Readiness(loop), code, starter, api, changes.notify)
    service = AgentService(agent, waiters, changes.notify)
    server = Server(loop, listen_fd, lambda: GatewayConnection(service, config.max_request_bytes))
    drain = Drain(config, loop, output, agent, service, server, waiters, changes)
    handle_signals(loop, drain.begin, agent.reap)
    if config.parent_death:
        platform.watch_parent(parent, loop.call_later)
    agent.start()
    # one that ended before the handler was there
    agent.reap()
    if stop_requested():
        drain.begin()
    loop.run()
    return 0
