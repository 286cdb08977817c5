"""uvicorn's servers for both ports."""

import asyncio
import contextlib
import resource
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast

import uvicorn

from kappa_gateway.edge.asgi import App
from kappa_gateway.edge.http_server import Swept, sweeper
from kappa_gateway.settings import Settings

BACKLOG: Final = 8192
"""Connections that the kernel may hold until they are accepted (bounded by its own somaxconn)."""
_INTERNAL_KEEP_ALIVE: Final = 75
"""Seconds; longer than another gateway keeps an idle connection (`upstream_idle_timeout`)."""


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: signals have one owner, `main.serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def run_until_exit(self) -> None:
        """Until `should_exit`. Raises `OSError` if its port is taken."""
        try:
            await self.serve()
        except SystemExit:
            # uvicorn's way to say that it could not start; the reason is logged
            raise OSError(
                f"port {self.config.port} on {self.config.host} cannot be listened on; is it taken?"
            ) from None

    @property
    def bound_port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])

    @property
    def sweep(self) -> Callable[[float], None]:
        """Looks at the deadlines of its connections; to be called a few times a second with the loop's time."""
        return sweeper(cast(set[Swept], self.server_state.connections))


def public_server(settings: Settings, app: App, *, http: Any, websocket: Any) -> Server:
    """`http` and `websocket` are uvicorn's protocol classes, or make such protocols from its arguments."""
    return Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=http,
            ws=websocket,
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


def internal_server(settings: Settings, app: App) -> Server:
    return Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.internal_port,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=_INTERNAL_KEEP_ALIVE,
            timeout_graceful_shutdown=int(settings.drain_timeout) or 1,
        )
    )


async def until_listening(servers: Sequence[Server], running: Sequence[asyncio.Task[None]]) -> None:
    """Raises what ended a server before it listened."""
    while not all(server.started for server in servers):
        for task in running:
            if task.done():
                task.result()
                return
        await asyncio.sleep(0.005)


def raise_file_limit() -> None:
    """Every connection is a file: take as many as the system allows this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    # macOS says "unlimited" and takes no more than OPEN_MAX, 10,240
    for wanted in (1 << 20, 10_240):
        limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        if soft >= limit:
            return
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return
