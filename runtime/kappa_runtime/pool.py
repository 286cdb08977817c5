"""How a pool pod's agent starts: it listens, starts the runtime process ahead, then loads all that an agent needs.

While it is nobody's it is a `pool_server.Pool`; `specialize` makes the Function's `Agent` of that.
"""

import gc
import os
from collections.abc import Mapping

from kappa_core.agent_config import PoolConfig
from kappa_runtime import ahead, launch


def run(env: Mapping[str, str]) -> int | None:
    """The agent's whole life: its exit status. None in the runtime process, once it was told which function it has.

    Raises `ValueError` and `OSError` for a configuration that cannot be used.
    """
    config = PoolConfig.from_env(env)
    if config.parent_death:
        from kappa_runtime import parent

        parent.die_with(os.getppid())
    listen_fd, port = launch.listen(config.host, config.port)
    if config.announce_fd >= 0:
        launch.announce(config.announce_fd, port)
    api_fd, api_port = launch.listen("127.0.0.1", config.runtime_api_port)
    imported = ahead.import_client(config.runtime, api_port)
    # what both processes need is loaded once, for both
    from kappa_runtime import archive  # noqa: F401

    gc.freeze()
    read_end, write_end = ahead.order_pipe()
    child = launch.fork(config.task_root, parent_death=config.parent_death)
    if child is None:
        for fd in (write_end, listen_fd, api_fd):
            os.close(fd)
        modules = filter(None, config.pool_preload.split(","))
        told = ahead.live(read_end, config.task_root, api_port, config.runtime, modules, imported)
        return None if told else 0
    os.close(read_end)
    from kappa_runtime.pool_server import Pool

    pool = Pool(config, env, listen_fd, api_fd, api_port)
    gc.freeze()
    gc.enable()
    pool.serve(ahead.Start(child, write_end))
    return 0
