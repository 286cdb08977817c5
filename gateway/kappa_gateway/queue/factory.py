"""Creates the queue that the settings name."""

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from kappa_gateway.queue.protocol import Queue
from kappa_gateway.settings import Settings


def make_queue(settings: Settings, clock: Callable[[], float] = time.time) -> Queue | None:
    """Not open yet; None where no queue is configured. `clock` (seconds since the epoch) is for SQLite: a NATS server
    has its own. The adapters are imported when they are needed: a gateway with SQLite needs no NATS client."""
    if not settings.queue_url:
        return None
    if settings.queue_url.startswith("sqlite:"):
        from kappa_gateway.queue.sqlite.queue import SqliteQueue

        return SqliteQueue(settings, clock)
    from kappa_gateway.queue.jetstream.queue import JetStreamQueue

    return JetStreamQueue(settings)


def sqlite_url(path: Path) -> str:
    """The setting `queue_url` for a queue in this file."""
    return f"sqlite:{quote(str(path.absolute()))}"
