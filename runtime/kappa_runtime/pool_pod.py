"""A pool pod's start: an agent without a function, and its prepared runtime process.

The order is that of `function_pod`: the sockets listen, the runtime process starts, then the agent is imported.
"""

from __future__ import annotations

import gc
import os

from kappa_core.agent_config import PoolConfig
from kappa_runtime import platform
from kappa_runtime.start import prepared_process, python_runtime
from kappa_runtime.start.child import fork_child
from kappa_runtime.start.prepared import PreparedChild, order_pipe
from kappa_runtime.start.sockets import announce, listen

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def begin(config: PoolConfig, env: Mapping[str, str], stop_requested: Callable[[], bool]) -> Callable[[], int]:
    """What this process goes on with: the agent, or in a fork of it the runtime process. It gives the exit status.

    Raises `ValueError` and `OSError` for a configuration that cannot be used.
    """
    parent = os.getppid()
    if config.parent_death:
        platform.die_with(parent)
    listen_fd, port = listen(config.host, config.port)
    if config.announce_fd >= 0:
        announce(config.announce_fd, port)
    api_fd, api_port = listen("127.0.0.1", config.runtime_api_port)
    imported = prepared_process.import_client(config.runtime, api_port)
    # what both processes need is loaded once, for both
    from kappa_runtime.start import archive  # noqa: F401

    gc.freeze()
    read_end, write_end = order_pipe()
    child = fork_child(config.task_root, parent_death=config.parent_death)
    if child is None:
        for fd in (write_end, listen_fd, api_fd):
            os.close(fd)
        modules = filter(None, config.pool_preload.split(","))
        has_function = prepared_process.live(read_end, config.task_root, api_port, config.runtime, modules, imported)
        return python_runtime.main_in_fork if has_function else lambda: 0
    os.close(read_end)
    from kappa_runtime.pool_agent import PoolAgent

    pool = PoolAgent(config, env, listen_fd, api_fd, api_port, PreparedChild(child, write_end))
    gc.freeze()
    gc.enable()
    if config.parent_death:
        platform.watch_parent(parent, pool.loop.call_later)
    return lambda: pool.serve(stop_requested)
