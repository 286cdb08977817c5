"""Runtime processes that are programs of their own: a new Python interpreter, or a custom runtime's `bootstrap`."""

from __future__ import annotations

import os
import sys

from kappa_core.agent_config import AgentConfig
from kappa_runtime import platform
from kappa_runtime.imports import signal
from kappa_runtime.start import environment
from kappa_runtime.start.child import Child, Starter, fork_child
from kappa_runtime.start.code import FunctionCode
from kappa_runtime.start.fork import TERMINAL_SIGNALS

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Spawn:
    """The `Starter` of every process but a pod's first."""

    def __init__(self, config: AgentConfig, env: Mapping[str, str], code: FunctionCode) -> None:
        """`env`: what the runtime process's variables are made from."""
        self._config = config
        self._env = env
        self._code = code

    def start(self, api_port: int) -> Child:
        config = self._config
        self._code.place()
        variables = environment.variables(config, self._env, api_port)
        return execute(environment.command(config), variables, config.task_root, parent_death=config.parent_death)


class Begun:
    """The `Starter` of a pod's first process, started before the agent was imported. Later ones start by `later`."""

    def __init__(self, child: Child, later: Starter) -> None:
        self._child: Child | None = child
        self._later = later

    def start(self, api_port: int) -> Child:
        child, self._child = self._child, None
        return self._later.start(api_port) if child is None else child


def execute(argv: list[str], env: Mapping[str, str], cwd: str, *, parent_death: bool) -> Child:
    """Start a program in a process as `fork_child` makes it.

    A command that cannot be run says so in its output and exits with status 127. Raises `OSError` when there is no
    room for another process.
    """
    child = fork_child(cwd, parent_death=parent_death)
    if child is not None:
        return child
    try:
        # Python ignores two signals, a shell others, which stay ignored through exec: a custom runtime would suffer
        for number in (signal.SIGPIPE, signal.SIGXFSZ, *TERMINAL_SIGNALS):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(argv[0], argv, env)  # noqa: S606 - no shell is wanted
    except BaseException as error:
        os.write(2, f"{argv[0]} cannot be started in {cwd}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def run_loaded(main: Callable[[], int], env: Mapping[str, str], cwd: str, *, parent_death: bool) -> Child:
    """As `execute`, of a program whose modules are loaded: `main` gives its exit status. Raises `OSError` like it."""
    child = fork_child(cwd, parent_death=parent_death)
    if child is not None:
        return child
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # the agent's connections would stay open as long as this runs
        platform.close_from(3)
        os.environ.clear()
        os.environ.update(env)
        status = main()
        sys.stdout.flush()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(status)


def fetch_in_new_interpreter(env: Mapping[str, str], parent_death: bool) -> Child:
    """Start `archive` with these variables. Raises `OSError`."""
    return execute([sys.executable, "-P", "-m", "kappa_runtime.start.archive"], env, "/", parent_death=parent_death)
