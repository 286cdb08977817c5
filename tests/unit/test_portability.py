"""Local mode runs on macOS too, so what Linux alone has is used in one module of a package and nowhere else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = {"runtime/kappa_runtime/platform.py"}
"""The modules that choose between Linux' way and a portable one."""

LINUX_ONLY = {
    "os": {
        *("pipe2", "memfd_create", "eventfd", "eventfd_read", "eventfd_write", "pidfd_open", "setns", "unshare"),
        *("sched_getaffinity", "sched_setaffinity", "sched_setscheduler", "sched_getscheduler", "sched_setparam"),
        *("waitid", "P_ALL", "P_PID", "P_PGID", "P_PIDFD", "WNOWAIT", "WEXITED"),  # macOS: from Python 3.13 on
        *("splice", "copy_file_range", "posix_fadvise", "posix_fallocate", "getrandom", "accept4", "closerange"),
        *("getxattr", "setxattr", "listxattr", "removexattr", "O_TMPFILE", "O_PATH", "O_DIRECT", "O_NOATIME"),
        *("getresuid", "setresuid", "getresgid", "setresgid", "posix_openpt", "login_tty", "process_cpu_count"),
    },
    "select": {"epoll", "poll", "EPOLLIN", "EPOLLOUT", "EPOLLHUP", "EPOLLERR", "EPOLLRDHUP", "EPOLLET"},
    "selectors": {"EpollSelector", "DevpollSelector"},
    "signal": {
        *("signalfd", "pidfd_send_signal", "sigtimedwait", "sigwaitinfo", "SIGRTMIN", "SIGRTMAX", "SIGPWR"),
        *("SIGPOLL", "SIGSTKFLT", "SIGCLD"),
    },
    "socket": {
        *("AF_NETLINK", "AF_PACKET", "AF_VSOCK", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "SO_PEERCRED", "SO_BINDTODEVICE"),
        *("SO_MARK", "SO_INCOMING_CPU", "SO_PRIORITY", "SO_DOMAIN", "SO_PROTOCOL", "MSG_NOSIGNAL", "MSG_MORE"),
        *("TCP_QUICKACK", "TCP_CORK", "TCP_USER_TIMEOUT", "TCP_DEFER_ACCEPT", "TCP_SYNCNT", "TCP_INFO"),
        *("IP_TRANSPARENT", "MSG_CMSG_CLOEXEC", "TCP_KEEPIDLE"),  # macOS: TCP_KEEPALIVE until Python 3.10
    },
    "time": {"CLOCK_BOOTTIME", "CLOCK_TAI", "CLOCK_REALTIME_COARSE", "CLOCK_MONOTONIC_COARSE"},
    "resource": {"prlimit", "RLIMIT_RTPRIO", "RLIMIT_SIGPENDING", "RLIMIT_NICE"},
    "fcntl": {"F_SETPIPE_SZ", "F_GETPIPE_SZ", "F_ADD_SEALS", "F_GET_SEALS", "F_NOTIFY", "F_SETLEASE"},
}
"""Module → its names that macOS has not, or has with another meaning."""
MODULES = {"ctypes", "asyncio.unix_events.PidfdChildWatcher", "inotify", "pyinotify", "systemd", "spwd", "crypt"}
"""Modules that are not there, or (ctypes) are used for what libc alone has."""
WORDS = ("/proc/", "/sys/", "/dev/shm", "prctl")
ALIASES = {"_socket": "socket", "_signal": "signal", "_posixsubprocess": "subprocess"}


def linux_only(source: str) -> Iterator[str]:
    """`LINE: what`, for each use of what Linux alone has. A guard such as `hasattr(os, "pipe2")` is none."""
    tree = ast.parse(source)
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name] = ALIASES.get(alias.name, alias.name)
                if alias.name in MODULES:
                    yield f"{node.lineno}: import {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            module = ALIASES.get(node.module or "", node.module or "")
            if module in MODULES:
                yield f"{node.lineno}: from {module} import"
            for alias in node.names:
                if alias.name in LINUX_ONLY.get(module, ()):
                    yield f"{node.lineno}: {module}.{alias.name}"
                if module.endswith(".imports"):
                    # where the runtime gets `socket` and `signal`
                    names[alias.asname or alias.name] = alias.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = names.get(node.value.id, "")
            if node.attr in LINUX_ONLY.get(module, ()):
                yield f"{node.lineno}: {module}.{node.attr}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield from (f"{node.lineno}: {word!r}" for word in WORDS if word in node.value)


def sources() -> list[Path]:
    return sorted(path for path in ROOT.glob("*/kappa_*/**/*.py"))


def test_what_linux_alone_has_is_in_one_module_of_a_package() -> None:
    found = {}
    for path in sources():
        place = path.relative_to(ROOT).as_posix()
        if place not in PLATFORM and (uses := list(linux_only(path.read_text(encoding="utf-8")))):
            found[place] = uses
    assert found == {}


def test_the_modules_that_may_are_there_and_do() -> None:
    for place in PLATFORM:
        assert list(linux_only((ROOT / place).read_text(encoding="utf-8"))), place


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os\nos.pipe2(0)", ["2: os.pipe2"]),
        ("import os as o\no.sched_getaffinity(0)", ["2: os.sched_getaffinity"]),
        ("from select import epoll", ["1: select.epoll"]),
        ("import _socket\n_socket.SOCK_CLOEXEC", ["2: socket.SOCK_CLOEXEC"]),
        ("from kappa_runtime.imports import socket\nsocket.SOCK_CLOEXEC", ["2: socket.SOCK_CLOEXEC"]),
        ("open(f'/proc/{1}/stat')", ["1: '/proc/'"]),
        ("import ctypes", ["1: import ctypes"]),
        ('"""Reads /proc/1."""\nimport os\nos.pipe()\nos.fork()', []),
        ("import os\nhasattr(os, 'pipe2')", []),
        ("import select\nselect.kqueue()", []),
    ],
)
def test_what_is_found(source: str, found: list[str]) -> None:
    assert list(linux_only(source)) == found
