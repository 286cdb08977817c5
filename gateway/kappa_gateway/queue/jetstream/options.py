"""The gateway's settings as options of nats-py's client: servers, TLS, credentials."""

import base64
import os
import re
import ssl
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import nkeys

from kappa_gateway.queue.protocol import QueueMisconfigured
from kappa_gateway.settings import Settings

CONNECT_TIMEOUT: Final = 2
"""Seconds for each step of a connection to one server."""
_CREDENTIALS: Final = re.compile(
    r"-+BEGIN NATS USER JWT-+\s+(?P<jwt>\S+)\s+-+END NATS USER JWT-+.*"
    r"-+BEGIN USER NKEY SEED-+\s+(?P<seed>\S+)\s+-+END USER NKEY SEED-+",
    re.DOTALL,
)


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


def client_options(settings: Settings) -> dict[str, Any]:
    """For nats-py's `connect`. Raises `QueueMisconfigured` for files that cannot be used.

    Files are read again for each connection: certificates and credentials are replaced while a gateway runs.
    """
    return {
        "servers": servers(settings),
        "name": f"kappa-gateway {settings.name}",
        "tls": _tls(settings),
        **_credentials(settings),
        # `Connection` opens the next connection, so that all that waits on a broken one fails at once.
        "allow_reconnect": False,
        "max_reconnect_attempts": 1,
        "reconnect_time_wait": 0,
        "connect_timeout": CONNECT_TIMEOUT,
        "ping_interval": 3600,
        "pending_size": 0,
        "skip_subject_validation": True,
    }


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not wants_tls(settings):
        return None  # nats-py creates one with the system's authorities where the server asks for TLS
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
