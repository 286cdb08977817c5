"""Deliveries to web addresses: one POST each, a CloudEvent in binary mode, signed.

What an answer means (https://www.standardwebhooks.com asks for the most of it):

| answer | |
| --- | --- |
| 2xx | taken; its body is ignored |
| 301, 308, and 4xx but those below | refused permanently: 410 and 422 mean so, and redirects are not followed |
| 401, 403, 404, 407, 408, 409, 421, 423, 425, 429, other 3xx and 5xx; no answer | tried again later; `Retry-After` is
respected |
"""

import asyncio
import errno
import io
import socket
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

from kappa_core.destinations import cloud_event_headers, message_id
from kappa_core.event import Event
from kappa_gateway.events.destinations import signing
from kappa_gateway.events.destinations.failure import DeliveryFailed
from kappa_gateway.settings import Settings
from kappa_gateway.transport import addresses

LONGEST_RETRY_AFTER: Final = 3600.0
EXCERPT_BYTES: Final = 300
"""Of a refusal's body, for the message."""
_DRAINED_BYTES: Final = 4096
"""Of a taken delivery's answer at most, so that its connection serves the next one too."""
_DRAIN_TIMEOUT: Final = 0.5
_PASSING: Final = frozenset({401, 403, 404, 407, 408, 409, 421, 423, 425, 429})
"""Client errors that may be temporary: the receiver is being rolled out, its permissions are being corrected, or it
gets too many requests at once."""
_USER_AGENT: Final = f"Kappa/{version('kappa-functions')}"


class HttpSender:
    """Owns the connections; made inside the event loop, closed by `close`."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        reach = settings.delivery_addresses

        def make_socket(found: Any) -> socket.socket:  # aiohttp's AddrInfoType is not exported
            family, kind, protocol, _, address = found
            refusal = addresses.refusal(str(address[0]), reach)
            if refusal is not None:
                raise AddressRefused(refusal)
            return socket.socket(family, kind, protocol)

        # No limit of its own: the caller bounds how many there are, and waiting here would eat up the timeout.
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=10, keepalive_timeout=30, socket_factory=make_socket)
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(_note_reuse)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=settings.delivery_timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": _USER_AGENT},
            auto_decompress=False,
            trace_configs=[tracing],
        )

    async def send(self, event: Event, url: str) -> None:
        """Returns once the receiver has taken the record; raises `DeliveryFailed`."""
        keys = signing.namespace_keys(self._settings.signing_key.get_secret_value(), event.lane.namespace)
        headers = {
            **cloud_event_headers(event),
            **signing.signed(keys, message_id=message_id(event), timestamp=int(self._clock()), body=event.payload),
        }
        shown = without_query(url)
        reused = _Reused()
        try:
            try:
                await self._post(event, url, headers, shown, reused)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not reused.seen:
                    raise
                # A connection that was kept since an earlier delivery, and closed by the other side just now.
                await self._post(event, url, headers, shown, _Reused())
        except TimeoutError:
            raise DeliveryFailed(
                f"{shown} did not answer within {self._settings.delivery_timeout:g} s (delivery_timeout)"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _unreached(shown, error) from error
        except ValueError as error:  # a name that no host can have
            raise _no_address(shown, error) from error

    async def _post(self, event: Event, url: str, headers: dict[str, str], shown: str, reused: "_Reused") -> None:
        async with self._session.post(
            url,
            data=io.BytesIO(event.payload),
            headers=headers,
            allow_redirects=False,
            trace_request_ctx=reused,
        ) as answer:
            if not 200 <= answer.status < 300:
                raise await self._refused(shown, answer)
            await _drain(answer)

    async def close(self) -> None:
        await self._session.close()

    async def _refused(self, shown: str, answer: aiohttp.ClientResponse) -> DeliveryFailed:
        status = answer.status
        if 300 <= status < 400:
            place = answer.headers.get("Location", "")[:300]
            message = (
                f"{shown} answered {status}, a redirect to {place or 'nowhere'}, and redirects are not followed; "
                "write the final address into the Function's spec.async"
            )
            return DeliveryFailed(message, retryable=status not in (301, 308))
        excerpt = await _excerpt(answer)
        message = f"{shown} answered {status}" + (f": {excerpt}" if excerpt else "")
        retry_after = seconds_asked_for(answer.headers.get("Retry-After"), self._clock())
        return DeliveryFailed(message, retryable=status in _PASSING or status >= 500, retry_after=retry_after)


class _Reused:
    """Whether a request went over a connection that was open already."""

    seen = False


async def _note_reuse(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.seen = True


class AddressRefused(OSError):
    def __init__(self, message: str) -> None:
        super().__init__(errno.EACCES, message)
        self.message = message


def _unreached(shown: str, error: Exception) -> DeliveryFailed:
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    match inner:
        case aiohttp.InvalidURL():
            return _no_address(shown, inner)
        case AddressRefused():
            return DeliveryFailed(f"{shown} is not delivered to: {inner.message}", retryable=False)
        case ssl.SSLError():
            reason = getattr(inner, "verify_message", "") or inner.reason or str(inner)
            return DeliveryFailed(f"{shown} has no certificate or encryption that the gateway trusts: {reason}")
        case socket.gaierror():
            return DeliveryFailed(f"{shown} cannot be reached: no address is known for its name ({inner.strerror})")
        case aiohttp.ServerDisconnectedError() | ConnectionResetError():
            return DeliveryFailed(f"{shown} closed the connection without an answer")
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return DeliveryFailed(f"{shown} answered with something other than HTTP: {type(inner).__name__}")
        case ConnectionRefusedError():
            return DeliveryFailed(f"{shown} cannot be reached: the connection was refused, so nothing listens there")
        case OSError() if inner.errno == errno.EACCES:  # several addresses, all refused
            return DeliveryFailed(f"{shown} is not delivered to: {inner.strerror}", retryable=False)
        case _:
            return DeliveryFailed(f"{shown} cannot be reached: {str(inner) or type(inner).__name__}")


def _no_address(shown: str, error: Exception) -> DeliveryFailed:
    message = f"{shown} is not a web address that can be called: {error}; correct it in the Function's spec.async"
    return DeliveryFailed(message, retryable=False)


async def _drain(answer: aiohttp.ClientResponse) -> None:
    """It is taken, whatever happens to the answer's body: a short one is read for the connection's sake."""
    if (answer.content_length or 0) <= _DRAINED_BYTES:
        try:
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                await answer.content.readexactly(answer.content_length or 0)
        except (TimeoutError, asyncio.IncompleteReadError, aiohttp.ClientError, OSError):
            answer.close()


async def _excerpt(answer: aiohttp.ClientResponse) -> str:
    """The beginning of a refusal's body in one line, for a person; of compressed ones nothing."""
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        return ""
    try:
        async with asyncio.timeout(_DRAIN_TIMEOUT):
            data = await answer.content.read(EXCERPT_BYTES)
    except (TimeoutError, aiohttp.ClientError, OSError):
        return ""
    text = data.decode("utf-8", "replace")
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def seconds_asked_for(text: str | None, now: float) -> float | None:
    """What `Retry-After` asks for (RFC 9110 §10.2.3), within bounds; None for none, or one that cannot be read."""
    if not text:
        return None
    if text.strip().isdecimal() and text.isascii():
        seconds = float(text)
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError, IndexError):
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def without_query(url: str) -> str:
    """How messages and logs name an address: the query may hold a token."""
    return url.partition("?")[0]
