"""What a cold start must not wait for: the listening sockets, the code and the first runtime process.

This runs before the rest of the agent is imported, so that the gateway can connect and the runtime process loads the
function's code meanwhile. `_socket` and `_signal` stand in for `socket` and `signal`, whose enums cost milliseconds.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the part of `signal` that needs no enum
import _socket
import io
import os
import sys
import time

from kappa_core.agent_config import AgentConfig
from kappa_runtime import code, environment

TYPE_CHECKING = False  # `typing` and `collections` would be loaded for annotations alone
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BACKLOG = 1024

stop_requested = False
"""A SIGTERM came before the event loop was there to take it."""


class Child:
    """A process that was started: its pid (also its process group) and the read end of its output."""

    __slots__ = ("output", "pid", "started")

    def __init__(self, pid: int, output: int, started: float) -> None:
        self.pid = pid
        self.output = output
        self.started = started
        """By `time.perf_counter`."""


class Start:
    """What `begin` has begun, for the agent to go on with."""

    __slots__ = ("api_fd", "api_port", "child", "error", "listen_fd")

    def __init__(self, listen_fd: int, api_fd: int, api_port: int) -> None:
        self.listen_fd = listen_fd
        self.api_fd = api_fd
        """Listens on the first runtime process's Runtime API port."""
        self.api_port = api_port
        self.child: Child | None = None
        self.error: tuple[str, str] | None = None
        """The error type and message, when the runtime process could not be started."""


def listen(host: str, port: int) -> tuple[int, int]:
    """A listening, non-blocking TCP socket: its descriptor and port. Raises `OSError` that names the address."""
    family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
    sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
    bound: int = sock.getsockname()[1]
    sock.setblocking(False)
    return sock.detach(), bound


def heed_stop() -> None:
    """Take a SIGTERM of the first moments: for a container's first process it would be lost, and the stop wait in vain."""
    _signal.signal(_signal.SIGTERM, _note_stop)


def _note_stop(number: int, frame: object) -> None:
    global stop_requested
    stop_requested = True


def begin(config: AgentConfig, env: Mapping[str, str]) -> Start | None:
    """Open the sockets, save inline code, start the first runtime process. Raises `OSError` if a port is taken.

    A Python runtime process starts as a fork of this one, where that makes no difference to the function: the
    interpreter and what both need are loaded once. In that process the answer is None, and the caller goes on with
    `python_runtime.main`.
    """
    listen_fd, port = listen(config.host, config.port)
    if config.announce_fd >= 0:
        announce(config.announce_fd, port)
    api_fd, api_port = listen("127.0.0.1", config.runtime_api_port)
    start = Start(listen_fd, api_fd, api_port)
    if config.sidecar or config.code_archive_url:
        return start
    try:
        if config.code_inline:
            code.write_inline(config.code_inline, config.handler, config.task_root)
        variables = environment.variables(config, env, api_port)
        if environment.is_python(config) and _can_fork(env):
            start.child = fork(config.task_root, parent_death=config.parent_death)
            if start.child is None:
                for fd in (listen_fd, api_fd):
                    os.close(fd)
                become_python(variables, config.handler, config.task_root)
                return None
        else:
            start.child = spawn(
                environment.command(config), variables, config.task_root, parent_death=config.parent_death
            )
    except code.CodeUnreadable as error:
        start.error = (code.UNREADABLE, str(error))
    except environment.NoEntrypoint as error:
        start.error = ("Runtime.InvalidEntrypoint", str(error))
    return start


_OF_A_TERMINAL = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT)
HARMLESS = frozenset(("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONIOENCODING"))


def _can_fork(env: Mapping[str, str]) -> bool:
    """Python reads its PYTHON* variables when it starts: a function that brings its own gets an interpreter of its own."""
    return not any(name.startswith("PYTHON") and name not in HARMLESS for name in env)


def become_python(variables: Mapping[str, str], handler: str, task_root: str) -> None:
    """What a new interpreter would have made of these variables: `python -P -m kappa_runtime.python_runtime HANDLER`."""
    env = os.environ
    for name in env.keys() - variables.keys():
        del env[name]
    for name, value in variables.items():
        # each one set is a copy of the whole environment for the C library
        if env.get(name) != value:
            env[name] = value
    time.tzset()
    for name, fd in (("stdout", 1), ("stderr", 2)):
        # unbuffered: what was printed is in the pipe before the answer is
        stream = getattr(sys, name)
        raw = io.FileIO(fd, "w", closefd=False)
        text = io.TextIOWrapper(
            raw, encoding=stream.encoding, errors=stream.errors, write_through=True
        )  # as Python does with -u
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)
    sys.path.insert(0, task_root)
    sys.argv[:] = [environment.__file__.replace("environment", "python_runtime"), handler]
    for number in _OF_A_TERMINAL:
        if _signal.getsignal(number) is _signal.SIG_IGN:
            interrupt = number == _signal.SIGINT
            _signal.signal(number, _signal.default_int_handler if interrupt else _signal.SIG_DFL)


def announce(fd: int, port: int) -> None:
    """Tell the one who started the agent its port. Raises `OSError` when nobody listens any more."""
    os.write(fd, b'{"port": %d}\n' % port)
    os.close(fd)


def spawn(argv: list[str], env: Mapping[str, str], cwd: str, *, parent_death: bool) -> Child:
    """Start a program in a process as `fork` makes it.

    A command that cannot be run says so in its output and exits with status 127. Raises `OSError` when there is no
    room for another process.
    """
    child = fork(cwd, parent_death=parent_death)
    if child is not None:
        return child
    try:
        _default_signals()
        os.execvpe(argv[0], argv, env)  # noqa: S606 - no shell is wanted
    except BaseException as error:
        os.write(2, f"{argv[0]} cannot be started in {cwd}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def run(main: Callable[[], int], env: Mapping[str, str], cwd: str, *, parent_death: bool) -> Child:
    """As `spawn`, of a program whose modules are loaded: `main` gives its exit status. Raises `OSError` like it."""
    child = fork(cwd, parent_death=parent_death)
    if child is not None:
        return child
    status = 1
    try:
        for number in (_signal.SIGINT, _signal.SIGCHLD):
            _signal.signal(number, _signal.SIG_DFL)
        # the agent's connections would stay open as long as this runs
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.environ.clear()
        os.environ.update(env)
        status = main()
        sys.stdout.flush()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(status)


def fork(cwd: str, *, parent_death: bool) -> Child | None:
    """A child in a group of its own, its stdout and stderr one pipe; None in the child itself.

    The agent has one thread, so this is safe. Raises `OSError` when there is no room for another process; where the
    child cannot enter `cwd` it says so in its output and exits with status 127.
    """
    if parent_death:
        from kappa_runtime import parent

    started = time.perf_counter()
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read_end, False)
    agent_pid = os.getpid()
    # one that is for the child would be lost in the agent's handler, which the child has until it has its own
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGTERM,))
    try:
        pid = os.fork()
    except OSError:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        os.close(read_end)
        os.close(write_end)
        raise
    if pid:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        os.close(write_end)
        # both sides do it, so that the group exists whoever comes first
        try:  # noqa: SIM105 - contextlib is not imported yet
            os.setpgid(pid, pid)
        except OSError:
            pass
        return Child(pid, read_end, started)
    try:
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(write_end, 1)
        os.dup2(write_end, 2)
        for fd in (null, read_end, write_end):
            os.close(fd)
        _die_first()
        if parent_death:
            parent.die_with(agent_pid)
        os.chdir(cwd)
    except BaseException as error:
        os.write(2, f"the runtime process cannot be started in {cwd}: {error}\n".encode(errors="replace"))
        os._exit(127)
    return None


def _die_first() -> None:
    """Out of memory, the kernel is to end the function, not the agent that tells the caller about it."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"1000")
        os.close(fd)
    except OSError:
        pass


def _default_signals() -> None:
    """Python ignores two, and a shell's `&` or nohup others, which stay ignored through exec: a custom runtime would suffer."""
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ, *_OF_A_TERMINAL):
        _signal.signal(number, _signal.SIG_DFL)
