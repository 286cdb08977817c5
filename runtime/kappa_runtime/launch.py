"""What a cold start must not wait for: the listening sockets, the code and the first runtime process.

This runs before asyncio, uvloop and httptools are imported (some 50 ms), so that the gateway can connect and the
runtime process loads the function's code meanwhile. It imports only what Python's own start has imported already:
`_socket` stands in for `socket` and `Settings` for `AgentConfig` (a test holds the two equal).
"""

import _signal  # type: ignore[import-not-found]  # the part of `signal` that needs no enum
import _socket
import os
import time
from collections.abc import Mapping

from kappa_runtime import code, environment

BACKLOG = 1024

stop_requested = False
"""A SIGTERM came before the event loop was there to take it."""


class Settings:
    """The part of `AgentConfig` that this module needs, read without importing it. Raises `ValueError`."""

    def __init__(self, env: Mapping[str, str]) -> None:
        get = env.get
        self.function_name = get("KAPPA_FUNCTION_NAME", "")
        self.runtime = get("KAPPA_RUNTIME", "")
        self.handler = get("KAPPA_HANDLER", "")
        self.memory_mib = int(get("KAPPA_MEMORY_MIB", "128"))
        self.region = get("KAPPA_REGION", "us-east-1")
        self.code_inline = get("KAPPA_CODE_INLINE", "")
        self.code_archive_url = get("KAPPA_CODE_ARCHIVE_URL", "")
        self.task_root = get("KAPPA_TASK_ROOT", "/var/task")
        self.host = get("KAPPA_HOST", "0.0.0.0")  # noqa: S104 - as in AgentConfig
        self.port = int(get("KAPPA_PORT", "8080"))
        self.runtime_api_port = int(get("KAPPA_RUNTIME_API_PORT", "9001"))
        self.sidecar = bool(int(get("KAPPA_SIDECAR", "0")))
        self.pod_name = get("KAPPA_POD_NAME", "")
        self.announce_fd = int(get("KAPPA_ANNOUNCE_FD", "-1"))
        self.parent_death = bool(int(get("KAPPA_PARENT_DEATH", "0")))


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


def begin(settings: Settings, env: Mapping[str, str]) -> Start:
    """Open the sockets, save inline code, start the first runtime process. Raises `OSError` if a port is taken."""
    listen_fd, port = listen(settings.host, settings.port)
    if settings.announce_fd >= 0:
        announce(settings.announce_fd, port)
    api_fd, api_port = listen("127.0.0.1", settings.runtime_api_port)
    start = Start(listen_fd, api_fd, api_port)
    if settings.sidecar or settings.code_archive_url:
        return start
    try:
        if settings.code_inline:
            code.write_inline(settings.code_inline, settings.handler, settings.task_root)
        start.child = spawn(
            environment.command(settings),
            environment.variables(settings, env, api_port),
            settings.task_root,
            parent_death=settings.parent_death,
        )
    except code.CodeUnreadable as error:
        start.error = (code.UNREADABLE, str(error))
    except environment.NoEntrypoint as error:
        start.error = ("Runtime.InvalidEntrypoint", str(error))
    return start


def announce(fd: int, port: int) -> None:
    """Tell the one who started the agent its port. Raises `OSError` when nobody listens any more."""
    os.write(fd, b'{"port": %d}\n' % port)
    os.close(fd)


def spawn(argv: list[str], env: Mapping[str, str], cwd: str, *, parent_death: bool) -> Child:
    """Start a process in a group of its own, its stdout and stderr one pipe; the agent has one thread, so fork is safe.

    A command that cannot be run says so in its output and exits with status 127. Raises `OSError` when there is no
    room for another process.
    """
    if parent_death:
        from kappa_runtime import parent

    started = time.perf_counter()
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read_end, False)
    agent_pid = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        os.close(read_end)
        os.close(write_end)
        raise
    if pid:
        os.close(write_end)
        # both sides do it, so that the group exists whoever comes first
        try:  # noqa: SIM105 - contextlib is not imported yet
            os.setpgid(pid, pid)
        except OSError:
            pass
        return Child(pid, read_end, started)
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(write_end, 1)
        os.dup2(write_end, 2)
        _default_signals()
        _die_first()
        if parent_death:
            parent.die_with(agent_pid)
        os.chdir(cwd)
        os.execvpe(argv[0], argv, env)  # noqa: S606 - no shell is wanted
    except BaseException as error:
        os.write(2, f"{argv[0]} cannot be started in {cwd}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _die_first() -> None:
    """Out of memory, the kernel is to end the function, not the agent that tells the caller about it."""
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"1000")
        os.close(fd)
    except OSError:
        pass


def _default_signals() -> None:
    """Python ignores these two; what is ignored stays so through exec, and a shell in a custom runtime would suffer."""
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
