"""The whole of `kappa local up`: composes terminal, backend and gateway, from the first check to the end of the last
process."""

import asyncio
import errno
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop

from kappa_cli.local import banner, gateway
from kappa_cli.local.backend import BackendOptions, LocalBackend
from kappa_cli.local.console import SELF, Console
from kappa_cli.local.manifests import reading
from kappa_cli.local.state_folder import queue_file
from kappa_core.logs import TextFormatter

DRAIN_TIMEOUT: Final = 3.0
"""Seconds that running requests have after the first Ctrl-C."""
STOP_GRACE: Final = 1.0
"""Seconds that the functions' processes have after that."""


class CannotStart(Exception):
    """Local mode cannot start; the message says what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    paths: Sequence[Path]
    host: str = "127.0.0.1"
    port: int = 8080
    keep_warm: float | None = None
    """Seconds, instead of every Function's own."""
    queue: Path | None = None
    """File of the queue; None: the one of `state_folder.queue_file` for these paths."""
    spare_processes: int = 1
    """For each runtime and namespace."""
    color: bool | None = None
    """None: if the output is a terminal."""
    verbose: bool = False


def run(options: Options) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP. Raises `CannotStart`."""
    try:
        found = reading.read(options.paths)
    except reading.NoSuchPath as error:
        raise CannotStart(str(error)) from None
    if not found.functions and not found.problems:
        where = ", ".join(map(str, options.paths))
        raise CannotStart(f"there is no Function in {where}: name a manifest of kind Function, or a folder with one")
    _check_port(options)
    console = Console(sys.stdout, color=options.color)
    _log_to(console, verbose=options.verbose)
    try:
        uvloop.run(_serve(options, console))
    except gateway.QueueMisconfigured as error:
        raise CannotStart(f"{error}. --queue FILE names another one") from error
    except OSError as error:
        raise CannotStart(str(error)) from error
    finally:
        console.close()


async def _serve(options: Options, console: Console) -> None:
    private_key = os.urandom(32)
    settings = gateway.local_settings(
        host=options.host,
        port=options.port,
        queue=options.queue or queue_file(options.paths),
        private_key=private_key if options.spare_processes else None,
        drain_timeout=DRAIN_TIMEOUT,
    )
    backend = LocalBackend(
        BackendOptions(
            paths=options.paths,
            region=settings.region,
            account=settings.account,
            keep_warm=options.keep_warm,
            stop_grace=STOP_GRACE,
            spare_processes=options.spare_processes,
            public_key=lambda: gateway.public_key(private_key),
        ),
        console,
    )
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            backend.kill()
        else:
            console.say("stopping; press Ctrl-C again to stop at once")
            stop.set()

    def on_serving(port: int) -> None:
        if options.host not in ("127.0.0.1", "::1", "localhost"):
            console.say(f"everybody who reaches {options.host}:{port} can run these functions: there is no password")
        console.plain(banner.text(backend.catalog, options.host, port, command()))

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    await gateway.serve_local(settings, backend, stop=stop, on_serving=on_serving)


def command() -> str:
    """How this shell finds `kappa`: by its name, or by its path where the environment is not activated."""
    called = Path(sys.argv[0])
    if called.name != "kappa" or shutil.which("kappa") == str(called):
        return "kappa"
    try:
        return str(called.relative_to(Path.cwd()))
    except ValueError:
        return str(called)


def _check_port(options: Options) -> None:
    """Before anything is started, so that this message is the only one. Raises `CannotStart`."""
    address = f"{options.host}:{options.port}"
    try:
        family, kind, proto, _, where = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
    except socket.gaierror as error:
        raise CannotStart(f"{options.host} is not an address of this machine ({error.strerror}): see --host") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            again = shlex.join([command(), "local", "up", *map(str, options.paths), "--port", str(options.port + 1)])
            raise CannotStart(f"another program listens on {address}: stop it, or take another port: {again}") from None
        if error.errno == errno.EACCES:
            raise CannotStart(f"you may not listen on {address}: take a port above 1023, such as --port 8080") from None
        raise CannotStart(f"cannot listen on {address} ({error.strerror}): see --host and --port") from None


def _log_to(console: Console, *, verbose: bool) -> None:
    handler = _ConsoleHandler(console)
    handler.setFormatter(TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.WARNING)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it logs each of its looks


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            self._console.line(SELF, line)
