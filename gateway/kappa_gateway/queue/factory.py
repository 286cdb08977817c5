"""Which queue the settings ask for."""

from pathlib import Path
from urllib.parse import quote

from kappa_gateway.queue.protocol import Queue
from kappa_gateway.settings import Settings


def make_queue(settings: Settings) -> Queue | None:
    """Not yet open; None where no queue is configured. The adapters are imported as they are needed: a gateway with
    SQLite needs no NATS client."""
    if not settings.queue_url:
        return None
    if settings.queue_url.startswith("sqlite:"):
        from kappa_gateway.queue.sqlite.queue import SqliteQueue

        return SqliteQueue(settings)
    from kappa_gateway.queue.jetstream.queue import JetStreamQueue

    return JetStreamQueue(settings)


def sqlite_url(path: Path) -> str:
    """The setting `queue_url` for a queue in this file."""
    return f"sqlite:{quote(str(path.absolute()))}"
