"""The gateway's process: both ports, the backend and the clockwork on one event loop, and a graceful end."""

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, cast

import uvicorn

from kappa_gateway.app import make_app
from kappa_gateway.backend import Backend
from kappa_gateway.events.destinations.deliverer import Deliverer
from kappa_gateway.events.service import Events
from kappa_gateway.gateway import Gateway
from kappa_gateway.http_server import Swept, protocol_for, sweeper
from kappa_gateway.internal import internal_app
from kappa_gateway.queue.factory import make_queue
from kappa_gateway.queue.protocol import Publisher
from kappa_gateway.settings import Settings
from kappa_gateway.websocket import relay_for

logger = logging.getLogger(__name__)

BACKLOG: Final = 8192
"""Connections that the kernel may hold until they are accepted (bounded by its own somaxconn)."""


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: the process has one owner of signals, `serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def bound_port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])


async def serve(
    settings: Settings,
    backend: Backend,
    *,
    stop: asyncio.Event | None = None,
    on_started: Callable[[Gateway, int, int], None] | None = None,
) -> None:
    """Serve until `stop` is set (without one: until SIGTERM or SIGINT), then drain and return.

    `on_started(gateway, port, internal_port)` is called once the ports listen; the gateway is synced a moment later
    (`gateway.registry.synced`). Raises `OSError` if a port is taken, `QueueMisconfigured` if the queue will not do, and
    whatever ends the backend.
    """
    if stop is None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    raise_file_limit()
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    gateway = Gateway(settings)
    async with asynchronous(gateway) as events:
        await _serve_all(gateway, events, backend, stop, on_started)


@contextlib.asynccontextmanager
async def asynchronous(gateway: Gateway) -> AsyncIterator[Events | None]:
    """Where the settings name a queue: `gateway.events`, for as long. Raises `QueueMisconfigured`."""
    queue = make_queue(gateway.settings)
    if queue is None:
        yield None
        return
    await queue.open()
    try:
        publisher = cast(Publisher, queue) if hasattr(queue, "publish") else None
        async with Deliverer(gateway.settings, publisher) as deliverer:
            gateway.events = events = Events(gateway, queue, deliverer)
            yield events
    finally:
        await queue.close()


async def _serve_all(
    gateway: Gateway,
    events: Events | None,
    backend: Backend,
    stop: asyncio.Event,
    on_started: Callable[[Gateway, int, int], None] | None,
) -> None:
    settings = gateway.settings
    public = _make_server(settings, gateway)
    gateway.sweeps.append(sweeper(cast(set[Swept], public.server_state.connections)))
    internal = _make_internal_server(settings, gateway) if settings.internal_port >= 0 else None
    servers = [server for server in (public, internal) if server is not None]
    running = [asyncio.create_task(_serve(server), name="http server") for server in servers]
    work = [
        asyncio.create_task(gateway.run(), name="clockwork"),
        asyncio.create_task(backend.run(gateway.registry), name="backend"),
    ]
    if events is not None:
        work.append(asyncio.create_task(events.run(), name="events"))
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await _until_listening(servers, running)
        logger.info("listening", extra={"port": public.bound_port})
        if on_started is not None:
            on_started(gateway, public.bound_port, internal.bound_port if internal is not None else -1)
        done, _ = await asyncio.wait([stopping, *work, *running], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if stopping not in done:
            raise RuntimeError(f"{', '.join(task.get_name() for task in done)} ended though nobody asked for it")
        gateway.draining = True
        if events is not None:
            events.stop()
        logger.info("stopping", extra={"in_flight": len(gateway.upstream.active)})
        await asyncio.sleep(settings.drain_delay)
    finally:
        gateway.draining = True
        # backend, clockwork and demand stream go on while requests end: one that waits may still get its pod
        public.should_exit = True
        ends = [running[0]]
        if events is not None:
            ends.append(asyncio.create_task(events.drain(settings.drain_timeout), name="events' end"))
        await asyncio.gather(*ends, return_exceptions=True)
        gateway.demand.close()
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*running, return_exceptions=True)
        for task in (stopping, *work):
            task.cancel()
        await asyncio.gather(stopping, *work, return_exceptions=True)
        await gateway.close()
        logger.info("stopped")


async def _serve(server: _Server) -> None:
    try:
        await server.serve()
    except SystemExit:
        # uvicorn's way to say that it could not start; the reason is logged
        raise OSError(
            f"port {server.config.port} on {server.config.host} cannot be listened on; is it taken?"
        ) from None


async def _until_listening(servers: list[_Server], running: list[asyncio.Task[None]]) -> None:
    while not all(server.started for server in servers):
        for task in running:
            if task.done():
                task.result()
                return
        await asyncio.sleep(0.005)


def _make_server(settings: Settings, gateway: Gateway) -> _Server:
    return _Server(
        uvicorn.Config(
            make_app(gateway),
            host=settings.host,
            port=settings.port,
            http=protocol_for(gateway),
            ws=relay_for(gateway),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=int(settings.keep_alive_timeout),
            timeout_graceful_shutdown=int(settings.drain_timeout) or 1,
        )
    )


def _make_internal_server(settings: Settings, gateway: Gateway) -> _Server:
    return _Server(
        uvicorn.Config(
            internal_app(gateway),
            host=settings.host,
            port=settings.internal_port,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )


def raise_file_limit() -> None:
    """Every connection is a file: take as many as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1 << 20)), hard))
