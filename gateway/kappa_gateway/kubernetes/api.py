"""The connection to the API server: `kubernetes.aio`'s client for addresses and credentials, plain JSON for the rest.

The client's models are not used: a pod as a model costs ten times its JSON, and the gateway needs a dozen of its fields.
"""

import asyncio
import json
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.client.rest import RESTResponse
from yaml import YAMLError  # the client's own dependency

USER_AGENT: Final = "kappa-gateway"
_LIST_TIMEOUT: Final = aiohttp.ClientTimeout(total=60, sock_connect=10)
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""A node that vanished is noticed within 30 s, though a watch may have nothing to say for a minute."""


class NoCluster(Exception):
    """There is no configuration to reach a cluster with; the message says where it was looked for."""


class ApiError(Exception):
    """The API server's refusal."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.retry_after = retry_after


class Disconnected(Exception):
    """The connection could not be made, broke, or fell silent; the message says which."""


class ApiServer:
    """One client for all lists and watches, made on first use and made anew when its credentials are refused."""

    def __init__(self, kubeconfig: str | None = None) -> None:
        self._kubeconfig = kubeconfig
        self._client: ApiClient | None = None
        self._was_configured = False
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()  # type: ignore[no-untyped-call]

    async def get(self, path: str, query: dict[str, str]) -> Any:  # Any: JSON
        """The JSON at `path`. Raises `ApiError`, `Disconnected` or `NoCluster`."""
        async with self._request(path, query, _LIST_TIMEOUT) as response:
            return json.loads(await response.response.read())

    async def events(self, path: str, query: dict[str, str], silence: float) -> AsyncGenerator[Any]:  # Any: JSON
        """The JSON objects at `path`, one a line, as they come, until the server ends the answer.

        Raises `ApiError`, `NoCluster`, and `Disconnected`: also when nothing came for `silence` seconds, and when the
        answer ends in the middle of a line.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silence)
        async with self._request(path, query, timeout) as response:
            _keep_alive(response)
            while line := await response.response.content.readline():
                if not line.endswith(b"\n"):
                    raise Disconnected("the connection broke in the middle of an event")
                yield json.loads(line)

    @asynccontextmanager
    async def _request(
        self, path: str, query: dict[str, str], timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[RESTResponse]:
        client = await self._connected()
        response: RESTResponse | None = None
        try:
            serialized = await client.param_serialize(
                "GET",
                path,
                query_params=list(query.items()),
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
            )
            response = await client.call_api(*serialized, _request_timeout=timeout)
            if response.status == 401:
                await self._renew(client)
            if response.status >= 400:
                raise await _api_error(response)
            yield response
        except (aiohttp.ClientError, OSError) as error:
            raise Disconnected(_reason(error)) from error
        except TimeoutError as error:
            raise Disconnected("no answer in time") from error
        except (ValueError, ApiException) as error:
            # a line beyond the reader's bound, or JSON that is none
            raise Disconnected(f"an answer that cannot be read: {error}") from error
        finally:
            if response is not None:
                connection = response.response.connection
                if connection is not None and connection.transport is not None:
                    # read to its end it would be None: a broken or unfinished stream gets no TLS farewell to wait for
                    connection.transport.abort()
                response.response.close()

    async def _connected(self) -> ApiClient:
        async with self._lock:
            if self._client is None:
                try:
                    configuration = await _configuration(self._kubeconfig)
                except NoCluster as error:
                    if self._was_configured:  # being rewritten, or its plugin fails for a moment: it will come back
                        raise Disconnected(str(error)) from error
                    raise
                self._was_configured = True
                self._client = ApiClient(configuration)
                self._client.user_agent = USER_AGENT
            return self._client

    async def _renew(self, refused: ApiClient) -> None:
        """Credentials may have been rotated: read them again. Watches on the old ones are cut, and come back."""
        async with self._lock:
            if self._client is refused:
                self._client = None
                await refused.close()  # type: ignore[no-untyped-call]


async def _configuration(kubeconfig: str | None) -> Configuration:
    """KUBECONFIG, where it is set; else the pod's own service account; else ~/.kube/config."""
    load_kube_config: Any = config.load_kube_config  # Any: the client does not type its configuration's functions
    load_incluster_config: Any = config.load_incluster_config
    configuration = Configuration()
    path = kubeconfig or os.environ.get("KUBECONFIG") or ""
    default = Path.home() / ".kube" / "config"
    try:
        if path:
            await load_kube_config(path, client_configuration=configuration, persist_config=False)
        elif os.environ.get("KUBERNETES_SERVICE_HOST"):
            load_incluster_config(client_configuration=configuration)
        elif await asyncio.to_thread(default.exists):
            await load_kube_config(str(default), client_configuration=configuration, persist_config=False)
        else:
            raise NoCluster(
                f"no Kubernetes is configured: KUBECONFIG is not set, {default} is not there, and this is no pod. "
                "Set KUBECONFIG, or run functions without a cluster: kappa local up PATH"
            )
    except (config.ConfigException, OSError, ValueError, YAMLError) as error:
        where = path or ("the pod's service account" if os.environ.get("KUBERNETES_SERVICE_HOST") else str(default))
        raise NoCluster(f"the Kubernetes configuration of {where} cannot be used: {error}") from error
    # Python 3.13's X509_STRICT refuses CAs without a key usage, which many clusters have and every other client takes.
    configuration.disable_strict_ssl_verification = True
    configuration.connection_pool_maxsize = 0  # each watch holds a connection; their number is ours to bound
    return configuration


async def _api_error(response: RESTResponse) -> ApiError:
    body = (await response.response.content.read(64 * 1024)).decode(errors="replace")
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = body.strip()[:200] or str(response.reason)
    retry_after = response.response.headers.get("Retry-After", "")
    return ApiError(response.status, message, float(retry_after) if retry_after.isdecimal() else None)


def _keep_alive(response: RESTResponse) -> None:
    connection = response.response.connection
    sock = connection.transport.get_extra_info("socket") if connection and connection.transport else None
    if sock is None:
        return
    with suppress(OSError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ServerTimeoutError):
        return "the API server fell silent" if isinstance(error, aiohttp.SocketTimeoutError) else "no answer in time"
    return str(error) or type(error).__name__
