"""A Function's pod: first what a cold start must not wait for, then the agent, put together.

The sockets listen, the code is saved and the first runtime process starts before the rest of the agent is imported. So
the gateway can connect, and the runtime process loads the function's code meanwhile.
"""

from __future__ import annotations

import gc
import os

from kappa_core.agent_config import AgentConfig
from kappa_runtime import platform
from kappa_runtime.io.sockets import announce, listen
from kappa_runtime.start import environment, fork, python_runtime, spawn
from kappa_runtime.start.child import Starter, fork_child
from kappa_runtime.start.code import CodeUnreadable
from kappa_runtime.start.early_stop import EarlyStop
from kappa_runtime.start.function_code import FunctionCode

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def begin(config: AgentConfig, env: Mapping[str, str], early_stop: EarlyStop) -> Callable[[], int]:
    """What this process goes on with: the agent, or in a fork of it the runtime process. It gives the exit status.

    Raises `OSError` when a port is taken.
    """
    parent = os.getppid()
    if config.parent_death:
        platform.die_with(parent)
    listen_fd, port = listen(config.host, config.port)
    if config.announce_fd >= 0:
        announce(config.announce_fd, port)
    api_fd, api_port = listen("127.0.0.1", config.runtime_api_port)
    code = FunctionCode(config, env, spawn.fetch_in_new_interpreter)
    starter: Starter = spawn.Spawn(config, env, code)
    if not config.sidecar and code.ready:
        try:
            code.place()
            if environment.is_python(config) and fork.can_fork(env):
                variables = environment.variables(config, env, api_port)
                child = fork_child(config.task_root, parent_death=config.parent_death)
                if child is None:
                    for fd in (listen_fd, api_fd):
                        os.close(fd)
                    fork.become_python(variables, config.handler, config.task_root)
                    return python_runtime.main_in_fork
            else:
                child = starter.start(api_port)
        except (CodeUnreadable, environment.NoEntrypoint):
            # the agent starts it again, and answers with what is wrong
            pass
        else:
            starter = spawn.Begun(child, starter)
    return lambda: _serve(config, listen_fd, api_fd, api_port, code, starter, early_stop, parent)


def _serve(
    config: AgentConfig,
    listen_fd: int,
    api_fd: int,
    api_port: int,
    code: FunctionCode,
    starter: Starter,
    early_stop: EarlyStop,
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
    if early_stop.requested:
        drain.begin()
    loop.run()
    return 0
