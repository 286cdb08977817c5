"""Listening sockets, opened before anything that takes long to import."""

from __future__ import annotations

import os

from kappa_runtime.imports import socket

BACKLOG = 1024


def listen(host: str, port: int) -> tuple[int, int]:
    """A listening, non-blocking TCP socket: its descriptor and port. Raises `OSError` that names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
    bound: int = sock.getsockname()[1]
    sock.setblocking(False)
    return sock.detach(), bound


def announce(fd: int, port: int) -> None:
    """Tell the process that started the agent its port. Raises `OSError` when it does not read any more."""
    os.write(fd, b'{"port": %d}\n' % port)
    os.close(fd)
