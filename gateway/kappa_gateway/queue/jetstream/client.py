"""nats-py's client, made from the settings: servers, TLS, credentials; and the little that it lacks for us."""

import asyncio
import base64
import contextlib
import os
import re
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import nkeys
from nats.aio.client import Client
from nats.errors import Error

from kappa_gateway.queue.protocol import QueueMisconfigured
from kappa_gateway.settings import Settings

CONNECT_TIMEOUT: Final = 2
"""Seconds for each step of a connection to one server."""
_CREDENTIALS: Final = re.compile(
    r"-+BEGIN NATS USER JWT-+\s+(?P<jwt>\S+)\s+-+END NATS USER JWT-+.*"
    r"-+BEGIN USER NKEY SEED-+\s+(?P<seed>\S+)\s+-+END USER NKEY SEED-+",
    re.DOTALL,
)


class TlsRefused(Error):
    """Raised before credentials would go over a plain connection."""


def servers(settings: Settings) -> list[str]:
    """The URLs, each with a scheme. A port that is missing is 4222."""
    urls = [url.strip() for url in settings.queue_url.split(",") if url.strip()]
    return [url if "://" in url else f"nats://{url}" for url in urls]


def address(settings: Settings) -> str:
    """The servers as messages name them: without user and password."""
    parts = (urlsplit(url) for url in servers(settings))
    return ",".join(f"{part.scheme}://{part.netloc.rpartition('@')[2]}" for part in parts)


def wants_tls(settings: Settings) -> bool:
    return bool(settings.queue_tls_ca or settings.queue_tls_cert) or any(
        url.startswith("tls://") for url in servers(settings)
    )


class NatsClient(Client):
    """One connection, which is not mended when it breaks: `Connection` makes the next one."""

    def __init__(self, require_tls: bool) -> None:
        super().__init__()
        self._require_tls = require_tls

    def _connect_command(self) -> bytes:
        # nats-py begins TLS only where the server asks for it, whatever the URL's scheme says.
        if self._require_tls and not (self._server_info.get("tls_required") or self.options["tls_handshake_first"]):
            raise TlsRefused("the server offers no TLS, and tls:// or a certificate is set")
        command: bytes = super()._connect_command()
        return command

    @property
    def reading(self) -> bool:
        """False once nothing reads from the connection any more, whatever the client's status says."""
        task = self._reading_task
        return self.is_connected and task is not None and not task.done()

    @property
    def server_info(self) -> dict[str, Any]:
        """What the server said of itself when the connection began (`Any`: JSON)."""
        return self._server_info

    async def discard(self) -> None:
        """End the connection at once and leave nothing behind. `close` alone would wait for a peer that does not read."""
        for name in ("_io_writer", "_bare_io_writer"):
            writer = getattr(self._transport, name, None)
            if writer is not None:
                writer.transport.abort()
        if self._reading_task is None:
            return  # it never began
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                await self.close()
        for task in (self._reading_task, self._flusher_task, self._ping_interval_task):
            if task is not None:
                task.cancel()
                await asyncio.wait([task], timeout=1.0)
                if task.done() and not task.cancelled():
                    task.exception()


async def connect(
    settings: Settings,
    *,
    on_error: Callable[[Exception], Awaitable[None]],
    on_closed: Callable[[], Awaitable[None]],
) -> NatsClient:
    """One try at each server. Raises `QueueMisconfigured` for files that cannot be used, else nats-py's and system errors."""
    client = NatsClient(wants_tls(settings))
    # Files are read anew for each connection: certificates and credentials are replaced while a gateway runs.
    options = {**_credentials(settings), "tls": _tls(settings)}
    try:
        await client.connect(
            servers(settings),
            name=f"kappa-gateway {settings.name}",
            error_cb=on_error,
            disconnected_cb=on_closed,
            closed_cb=on_closed,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=CONNECT_TIMEOUT,
            ping_interval=3600,
            # Nothing is kept for a connection that is not there: who asks waits for the next one, or gives up.
            pending_size=0,
            skip_subject_validation=True,
            **options,
        )
    except BaseException:
        await client.discard()
        raise
    return client


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not wants_tls(settings):
        return None  # nats-py makes one with the system's authorities, where the server asks for TLS
    try:
        context = ssl.create_default_context(cafile=settings.queue_tls_ca or None)
        if settings.queue_tls_cert:
            context.load_cert_chain(settings.queue_tls_cert, settings.queue_tls_key or None)
    except (OSError, ValueError) as error:
        files = [settings.queue_tls_ca, settings.queue_tls_cert, settings.queue_tls_key]
        raise QueueMisconfigured(
            f"the TLS files of the queue cannot be used ({', '.join(filter(None, files))}): {error}"
        ) from error
    return context


def _credentials(settings: Settings) -> dict[str, Any]:
    if not settings.queue_credentials_file:
        return {
            "user": settings.queue_user or None,
            "password": settings.queue_password.get_secret_value() or None,
            "token": settings.queue_token.get_secret_value() or None,
        }
    path = Path(os.path.expanduser(settings.queue_credentials_file))
    try:
        found = _CREDENTIALS.search(path.read_text(encoding="utf-8"))
        if found is None:
            raise ValueError("it has no user JWT and seed, as `nsc generate creds` writes them")
        jwt, seed = found["jwt"].encode(), found["seed"].encode()
        nkeys.from_seed(bytearray(seed)).wipe()
    except Exception as error:  # nkeys raises what binascii raises, too
        raise QueueMisconfigured(f"the credentials file of the queue, {path}, cannot be used: {error}") from error

    def sign(nonce: str) -> bytes:
        pair = nkeys.from_seed(bytearray(seed))
        try:
            return base64.b64encode(pair.sign(nonce.encode()))
        finally:
            pair.wipe()

    return {"user_jwt_cb": lambda: jwt, "signature_cb": sign}
