"""The runtime process of a pool pod, before it has a function: it imports, rehearses, then waits for its order.

    python -m kappa_runtime.start.prepared_process ORDER_FD API_PORT RUNTIME TASK_ROOT MODULES

The order comes through the pipe ORDER_FD: variables, handler, task root. From then on it is the process that
`function_pod` forks for a Function. The pool's agent forks its first one, which so shares the agent's memory; one that
has died is replaced by the command above.

What a function sees must be what it sees after an ordinary start. So modules that were imported early and hide the
function's own are removed again, and what depends on environment variables is set up again.
"""

from __future__ import annotations

import gc
import os
import sys

from kappa_core.agent_config import AgentConfig
from kappa_runtime.start import environment, fork, prepared

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Iterable

REHEARSAL = "kappa_rehearsal"
"""The module of the rehearsal; the request id of its invocation, too."""
_CODE = """\
import json


def handler(event, context):
    return {'hello': event.get('name', 'world'), 'id': context.aws_request_id}
"""


class Imported:
    """What the process has imported: as an ordinary start does before the function's code, and more since."""

    def __init__(self, more: frozenset[str] = frozenset()) -> None:
        """`more`: what is imported by now but not so in an ordinary start on Linux."""
        self._base = frozenset(sys.modules) - more

    def make_way(self, task_root: str) -> None:
        """Remove what was imported early where the function has a module of that name, which would come first."""
        try:
            own = {name.partition(".")[0] for name in os.listdir(task_root)}
        except OSError:
            return
        in_the_way = own & sys.modules.keys()
        if in_the_way:
            for name in [name for name in sys.modules if name.partition(".")[0] in in_the_way]:
                if name not in self._base:
                    del sys.modules[name]


def import_client(runtime: str, api_port: int) -> Imported:
    """Import Lambda's client, which reads these variables when it is imported."""
    os.environ["AWS_LAMBDA_RUNTIME_API"] = f"127.0.0.1:{api_port}"
    os.environ["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{runtime}"
    from kappa_runtime.start import python_runtime

    more = python_runtime.ensure_runtime_client()
    from awslambdaric import bootstrap  # noqa: F401

    for name in ("AWS_LAMBDA_RUNTIME_API", "AWS_EXECUTION_ENV"):
        del os.environ[name]
    return Imported(more)


def import_modules(names: Iterable[str]) -> None:
    """Import these; one that cannot be imported is logged and left out."""
    import importlib

    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            print(f"kappa: pool: {name} cannot be preloaded: {reason}", file=sys.stderr)  # noqa: T201


class _Rehearsed(Exception):
    """Asked for a second invocation."""


def rehearse(task_root: str, api_port: int, runtime: str) -> None:
    """Do once all that lies between an order and its answer, with a function of its own.

    So memory that a fork shares is copied now, what Lambda's client imports late is loaded, the connection to the
    Runtime API is open, and the agent knows that this process waits. What a function could see of it is undone, here or
    by the order."""
    import logging

    from awslambdaric import bootstrap
    from awslambdaric.lambda_runtime_client import LambdaRuntimeClient

    class Once(LambdaRuntimeClient):  # type: ignore[misc]  # awslambdaric has no types
        asked = False

        def wait_next_invocation(self) -> object:
            if self.asked:
                raise _Rehearsed
            self.asked = True
            return super().wait_next_invocation()

    handler = f"{REHEARSAL}.handler"
    config = AgentConfig(function_name=REHEARSAL, runtime=runtime, handler=handler, task_root=task_root)
    root = logging.getLogger()
    before = dict(vars(bootstrap)), sys.stdout, sys.stderr, root.handlers[:], logging.Formatter.converter
    fork.become_python(environment.variables(config, os.environ, api_port), handler, task_root)
    path = os.path.join(task_root, f"{REHEARSAL}.py")
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(_CODE)
    except OSError:
        # a task root that cannot be written to: the code that comes will say so
        sys.modules[REHEARSAL] = type(sys)(REHEARSAL)
        exec(_CODE, vars(sys.modules[REHEARSAL]))  # noqa: S102 - a constant
    try:
        bootstrap.run(handler, Once(os.environ["AWS_LAMBDA_RUNTIME_API"]))
    except _Rehearsed:
        pass
    finally:
        vars(bootstrap).update(before[0])
        _, sys.stdout, sys.stderr, root.handlers[:], logging.Formatter.converter = before
        sys.modules.pop(REHEARSAL, None)
        sys.path.remove(task_root)
        sys.path_importer_cache.pop(task_root, None)
        if os.path.exists(path):
            os.unlink(path)


def wait(order_fd: int, imported: Imported) -> bool:
    """Until the order comes; then this is the function's process. False: the agent has ended, there will be none."""
    order = prepared.read_order(order_fd)
    if order is None:
        return False
    variables, handler, task_root = order
    os.close(order_fd)
    fork.become_python(variables, handler, task_root)
    imported.make_way(task_root)
    if "AWS_LAMBDA_LOG_FORMAT" in variables or "AWS_LAMBDA_LOG_LEVEL" in variables:
        import importlib

        from awslambdaric import bootstrap

        importlib.reload(bootstrap)
    return True


def live(
    order_fd: int, task_root: str, api_port: int, runtime: str, modules: Iterable[str], imported: Imported
) -> bool:
    """All that comes before the function; the result is that of `wait`."""
    import_modules(modules)
    rehearse(task_root, api_port, runtime)
    gc.collect()
    gc.freeze()
    return wait(order_fd, imported)


def main() -> int:
    gc.disable()
    order_fd, api_port, runtime, task_root, modules = sys.argv[1:]
    imported = import_client(runtime, int(api_port))
    if not live(int(order_fd), task_root, int(api_port), runtime, filter(None, modules.split(",")), imported):
        return 0
    from kappa_runtime.start import python_runtime

    return python_runtime.main_in_fork()


if __name__ == "__main__":
    sys.exit(main())
