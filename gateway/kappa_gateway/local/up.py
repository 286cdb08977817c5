"""The whole of `kappa local up`: the gateway over a `LocalBackend`, from the first check to the last child's end."""

import asyncio
import base64
import errno
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import uvloop
from pydantic import SecretStr

from kappa_core.demand import DemandReport
from kappa_core.logs import TextFormatter
from kappa_gateway.demand import Overrun
from kappa_gateway.gateway import Gateway
from kappa_gateway.local import banner, manifests
from kappa_gateway.local.backend import LocalBackend
from kappa_gateway.local.console import SELF, Console
from kappa_gateway.local.state_folder import queue_file
from kappa_gateway.pools.signing import Signer
from kappa_gateway.queue.factory import sqlite_url
from kappa_gateway.queue.protocol import QueueMisconfigured
from kappa_gateway.server import serve
from kappa_gateway.settings import Settings

log = logging.getLogger(__name__)

DRAIN_TIMEOUT: Final = 3.0
"""Seconds that running requests have after the first Ctrl-C."""
QUEUE_LEASE: Final = 5.0
"""Seconds after which a new process tries the events of one that was killed: nobody else can be at them."""
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
    color: bool | None = None
    """None: as the terminal is."""
    verbose: bool = False
    queue: Path | None = None
    """File of the queue of asynchronous invocations; None: one of its own for these paths, see `state_folder`."""
    pool_size: int = 1
    """Spare processes for each runtime, that cold starts take over; 0: none."""


def up(options: Options) -> None:
    """Serve until SIGINT or SIGTERM. Raises `CannotStart`."""
    try:
        found = manifests.read(options.paths)
    except manifests.NoSuchPath as error:
        raise CannotStart(str(error)) from None
    if not found.functions and not found.problems:
        where = ", ".join(map(str, options.paths))
        raise CannotStart(f"there is no Function in {where}: name a manifest of kind Function, or a folder with one")
    _check_port(options)
    console = Console(sys.stdout, color=options.color)
    _log_to(console, verbose=options.verbose)
    try:
        uvloop.run(_serve(options, console))
    except QueueMisconfigured as error:
        raise CannotStart(f"{error}. --queue FILE names another one") from error
    except OSError as error:
        raise CannotStart(str(error)) from error
    finally:
        console.close()


async def _serve(options: Options, console: Console) -> None:
    key = os.urandom(32)
    settings = Settings(
        host=options.host,
        port=options.port,
        internal_port=-1,
        name="local",
        queue_lease=QUEUE_LEASE,
        queue_url=sqlite_url(options.queue or queue_file(options.paths)),
        delivery_addresses="any",
        pool_private_key=SecretStr(base64.b64encode(key).decode() if options.pool_size else ""),
        drain_delay=0,
        drain_timeout=DRAIN_TIMEOUT,
    )
    backend = LocalBackend(
        options.paths,
        console,
        keep_warm=options.keep_warm,
        region=settings.region,
        account=settings.account,
        stop_grace=STOP_GRACE,
        pool_size=options.pool_size,
        pool_key=lambda: Signer(key).public_key,
    )
    stop = asyncio.Event()

    def stop_asked() -> None:
        if stop.is_set():
            backend.kill()
        else:
            console.say("stopping; press Ctrl-C again to stop at once")
            stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop_asked)
    beside: set[asyncio.Task[None]] = set()

    def started(gateway: Gateway, port: int, _internal_port: int) -> None:
        beside.add(asyncio.create_task(_follow(gateway, backend), name="local scaling"))
        beside.add(asyncio.create_task(_greet(gateway, backend, console, options, port), name="banner"))

    try:
        await serve(settings, backend, stop=stop, on_started=started)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


async def _follow(gateway: Gateway, backend: LocalBackend) -> None:
    """The scaler's eyes: the gateway's own demand feed, from within."""
    while not gateway.draining:
        reports = cast(AsyncGenerator[DemandReport], gateway.demand.subscribe())
        try:
            async with aclosing(reports):
                await backend.follow(reports)
        except Overrun:
            continue
        except Exception:
            log.exception("scaling stumbled; going on")
        await asyncio.sleep(0.1)


async def _greet(gateway: Gateway, backend: LocalBackend, console: Console, options: Options, port: int) -> None:
    await gateway.registry.synced.wait()
    if options.host not in ("127.0.0.1", "::1", "localhost"):
        console.say(f"whoever reaches {options.host}:{port} can run these functions: there is no password on them")
    console.plain(banner.text(backend.catalog, options.host, port, command()))


def command() -> str:
    """How this shell calls `kappa`: by its name, or by its path where the environment is not activated."""
    called = Path(sys.argv[0])
    if called.name != "kappa" or shutil.which("kappa") == str(called):
        return "kappa"
    try:
        return str(called.relative_to(Path.cwd()))
    except ValueError:
        return str(called)


def _check_port(options: Options) -> None:
    """Find out before anything is started, so that the message is the only one. Raises `CannotStart`."""
    address = f"{options.host}:{options.port}"
    try:
        family, kind, proto, _, where = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
    except socket.gaierror as error:
        raise CannotStart(f"{options.host} is no address of this machine ({error.strerror}): see --host") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            again = shlex.join([command(), "local", "up", *map(str, options.paths), "--port", str(options.port + 1)])
            raise CannotStart(
                f"{address} is taken by another program: stop that, or take another port: {again}"
            ) from None
        if error.errno == errno.EACCES:
            raise CannotStart(
                f"{address} is not yours to listen on: take a port above 1023, such as --port 8080"
            ) from None
        raise CannotStart(f"{address} cannot be listened on ({error.strerror}): see --host and --port") from None


def _log_to(console: Console, *, verbose: bool) -> None:
    handler = _ConsoleHandler(console)
    handler.setFormatter(TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.WARNING)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it logs each look it takes


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            self._console.line(SELF, line)
