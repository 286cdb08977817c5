"""Runs the gateway inside `kappa local up`: its settings, its life, and the demand that scales the processes.

With `processes.pods` this is all that the command line uses of the gateway.
"""

import asyncio
import base64
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final, cast

from pydantic import SecretStr

from kappa_cli.local.backend import LocalBackend
from kappa_core.demand import DemandReport
from kappa_gateway.main import Gateway, serve
from kappa_gateway.pods.demand import Overrun
from kappa_gateway.pods.warm.signing import Signer
from kappa_gateway.queue.factory import sqlite_url
from kappa_gateway.queue.protocol import QueueMisconfigured
from kappa_gateway.settings import Settings

__all__ = ["QueueMisconfigured", "local_settings", "public_key", "serve_local"]

logger = logging.getLogger(__name__)

QUEUE_LEASE: Final = 5.0
"""Seconds after which the events of a process that was killed are redelivered: nobody else can be running them."""
RESUBSCRIBE_AFTER: Final = 0.1
"""Seconds before the demand feed is followed again after an error."""


def local_settings(*, host: str, port: int, queue: Path, private_key: bytes | None, drain_timeout: float) -> Settings:
    """The gateway's settings: these, and for all others the environment. `private_key` None: no spare processes."""
    return Settings(
        host=host,
        port=port,
        internal_port=-1,
        name="local",
        queue_lease=QUEUE_LEASE,
        queue_url=sqlite_url(queue),
        delivery_addresses="any",
        pool_private_key=SecretStr(base64.b64encode(private_key).decode() if private_key is not None else ""),
        drain_delay=0,
        drain_timeout=drain_timeout,
    )


def public_key(private_key: bytes) -> str:
    """What spare processes trust. Takes some 20 ms the first time."""
    return Signer(private_key).public_key


async def serve_local(
    settings: Settings, backend: LocalBackend, *, stop: asyncio.Event, on_serving: Callable[[int], None]
) -> None:
    """Serve until `stop` is set. `on_serving(port)` is called once requests are answered.

    Raises `OSError` if the port is taken, and `QueueMisconfigured`.
    """
    beside: set[asyncio.Task[None]] = set()

    def started(gateway: Gateway, port: int, _internal_port: int) -> None:
        async def announce() -> None:
            await gateway.functions.synced.wait()
            on_serving(port)

        beside.add(asyncio.create_task(_scale(gateway, backend), name="local scaling"))
        beside.add(asyncio.create_task(announce(), name="announce"))

    try:
        await serve(settings, backend, stop=stop, on_started=started)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


async def _scale(gateway: Gateway, backend: LocalBackend) -> None:
    """Follow the gateway's demand feed, as the operator does in a cluster."""
    while not gateway.readiness.is_stopping:
        reports = cast(AsyncGenerator[DemandReport], gateway.demand.subscribe())
        try:
            async with aclosing(reports):
                await backend.follow(reports)
        except Overrun:
            continue
        except Exception:
            logger.exception("scaling failed, and goes on")
        await asyncio.sleep(RESUBSCRIBE_AFTER)
