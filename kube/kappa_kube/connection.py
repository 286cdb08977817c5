"""HTTP to the API server: JSON in, JSON out, over one aiohttp session. It is replaced when its credentials are refused.

The Kubernetes client's own `ApiClient` and models are not used (docs/decisions/0017).
"""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp
from aiohttp.http import HttpProcessingError

from kappa_kube import configuration as configurations
from kappa_kube.configuration import Configuration
from kappa_kube.errors import Disconnected, NoCluster, refusal

Json = dict[str, Any]
Query = Mapping[str, str | int]

REQUEST_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 5.0
_KEEPALIVE_SECONDS: Final = 75.0
"""The API server closes idle connections after 90 s. One that is still open spares a cold start the TLS handshake."""
_READ_BUFFER: Final = 2**21
"""Bytes; a watch event, one line, may have twice as many. Etcd stores objects of up to 1.5 MiB."""
_PROBES: Final = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""A node that vanished is noticed within 30 s, although a watch may have no event for a minute."""


@dataclass(frozen=True, slots=True)
class _Session:
    configuration: Configuration
    http: aiohttp.ClientSession


class Connection:
    """`async with Connection(user_agent) as connection`. Raises `NoCluster` on entry where nothing is configured.

    `kubeconfig` is a path; None means the rule of `configuration`. `limit` bounds the TCP connections, 0 does not: each
    watch holds one.
    """

    def __init__(self, user_agent: str, *, kubeconfig: str | None = None, limit: int = 64) -> None:
        self._user_agent = user_agent
        self._kubeconfig = kubeconfig
        self._limit = limit
        self._session: _Session | None = None
        self._configured = False
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._current()
        return self

    async def __aexit__(self, *_: object) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.http.close()

    async def configuration(self) -> Configuration:
        """The address and credentials in use. Raises `Disconnected` while they cannot be read."""
        return (await self._current()).configuration

    async def request(
        self,
        method: str,
        path: str,
        query: Query,
        body: Json | None = None,
        content_type: str = "application/json",
        timeout: float = REQUEST_SECONDS,
    ) -> Json:
        """The answer's JSON. `timeout` is in seconds, for everything. Raises `ApiError` and `Disconnected`."""
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_SECONDS)
        async with self._open(method, path, query, body, content_type, limits) as response:
            answer: Json = json.loads(await response.read())
            return answer

    async def lines(self, path: str, query: Query, silence: float) -> AsyncGenerator[Any]:  # Any: JSON of any shape
        """The JSON values of the answer, one per line, as they come, until the server ends it.

        Raises `ApiError`, and `Disconnected`: also when nothing came for `silence` seconds, and when the answer ends in
        the middle of a line.
        """
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence)
        async with self._open("GET", path, query, None, "", limits) as response:
            try:
                while line := await response.content.readline():
                    if not line.endswith(b"\n"):
                        raise Disconnected("the connection broke in the middle of an event")
                    yield json.loads(line)
            finally:
                # None if the answer was read to its end. An unfinished one need not wait for a TLS close_notify.
                if response.connection is not None and response.connection.transport is not None:
                    response.connection.transport.abort()

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        query: Query,
        body: Json | None,
        content_type: str,
        limits: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        session = await self._current()
        try:
            async with session.http.request(
                method,
                f"{session.configuration.host}{path}{'?' if query else ''}{urlencode(query)}",
                headers=await self._headers(session.configuration, content_type if body is not None else ""),
                data=None if body is None else json.dumps(body),
                timeout=limits,
                proxy=session.configuration.proxy,
                proxy_headers=session.configuration.proxy_headers,
                server_hostname=session.configuration.tls_server_name,
            ) as response:
                if response.status >= 400:
                    text = await response.read()
                    if response.status == 401:
                        await self._renew(session)
                    raise refusal(response.status, text, response.headers.get("Retry-After"))
                yield response
        except (aiohttp.ClientError, OSError) as error:
            raise Disconnected(_reason(error)) from error
        except (ValueError, RuntimeError, HttpProcessingError) as error:
            # a line beyond the buffer, text that is not JSON; a session that another request's 401 has just closed
            raise Disconnected(f"an answer that cannot be read: {error}") from error

    async def _headers(self, configuration: Configuration, content_type: str) -> dict[str, str]:
        headers = {"User-Agent": self._user_agent, "Accept": "application/json"}
        if authorization := await configurations.authorization(configuration):
            headers["Authorization"] = authorization
        if content_type:
            headers["Content-Type"] = content_type
        return headers

    async def _current(self) -> _Session:
        async with self._lock:
            if self._session is None:
                try:
                    configuration = await configurations.load(self._kubeconfig)
                    self._session = _Session(configuration, self._http(configuration))
                except NoCluster as error:
                    if self._configured:  # it is being rewritten, or its plugin fails for a moment
                        raise Disconnected(str(error)) from error
                    raise
                self._configured = True
            return self._session

    def _http(self, configuration: Configuration) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=self._limit,
            ssl=tls_context(configuration),
            keepalive_timeout=_KEEPALIVE_SECONDS,
            socket_factory=_socket,
        )
        return aiohttp.ClientSession(
            connector=connector, trust_env=True, read_bufsize=_READ_BUFFER, cookie_jar=aiohttp.DummyCookieJar()
        )

    async def _renew(self, refused: _Session) -> None:
        """Credentials may have been rotated: read them again. Watches on the old ones break, and are made again."""
        async with self._lock:
            if self._session is refused:
                self._session = None
                await refused.http.close()


def tls_context(configuration: Configuration) -> ssl.SSLContext:
    """Raises `NoCluster` for certificates that cannot be read."""
    try:
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    except (OSError, ValueError) as error:
        raise NoCluster(f"the certificates of the Kubernetes configuration cannot be used: {error}") from error
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # Python 3.13's X509_STRICT refuses CAs without a key usage, which many clusters have and every other client takes.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _PROBES:
        with suppress(OSError, AttributeError):  # not on every system
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.SocketTimeoutError):
        return "the API server fell silent"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
