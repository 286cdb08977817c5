"""The Kubernetes API as the operator uses it: JSON in, JSON out, over `kubernetes.aio`'s connection and credentials.

No typed models: they cost memory and time, and the operator's objects are plain dictionaries anyway.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import load_incluster_config, load_kube_config
from kubernetes.aio.config.config_exception import ConfigException

from kappa_core import names

Json = dict[str, Any]

APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
TIMEOUT_SECONDS: Final = 15.0
LONGEST_RETRY_AFTER: Final = 10.0
PAGE: Final = 250


class ApiError(Exception):
    """The API server refused: `status` is the HTTP status, `reason` Kubernetes' word, `message` its sentence."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class NotLeader(Exception):
    """The Lease is not held (any more): nothing may be written."""


class Api:
    """One connection pool to the API server. Raises `ApiError`; `aiohttp.ClientError` or `TimeoutError` if unreachable."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self._rest: RESTClientObject | None = None
        self._writes_until: float | None = None

    async def __aenter__(self) -> "Api":
        # The API server closes idle connections after 90 s; a pooled one spares a cold start the TLS handshake.
        self.configuration.connection_pool_maxsize = 64
        self._rest = RESTClientObject(self.configuration)
        connector = aiohttp.TCPConnector(limit=64, ssl=self._rest.ssl_context, keepalive_timeout=75)
        self._rest.pool_manager = aiohttp.ClientSession(
            connector=connector, trust_env=True, read_bufsize=2**20, cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._rest is not None:
            await self._rest.close()

    def fence(self, until: float) -> None:
        """From now on writes raise `NotLeader` once `time.monotonic()` is past `until`, but for the Lease's own."""
        self._writes_until = until

    async def get(self, path: str, **query: str | int) -> Json:
        return await self._json("GET", path, query)

    async def apply(self, path: str, body: Json, *, force: bool = True) -> Json:
        """Server-side apply. With `force` false, fields of other managers raise `ApiError` 409."""
        query = {"fieldManager": names.FIELD_MANAGER, "force": str(force).lower()}
        return await self._write("PATCH", path, query, body, APPLY)

    async def merge_patch(self, path: str, body: Json, *, field_manager: str = names.FIELD_MANAGER) -> Json:
        return await self._write("PATCH", path, {"fieldManager": field_manager}, body, MERGE)

    async def strategic_patch(self, path: str, body: Json) -> Json:
        """As `merge_patch`, but an entry of a list is found by its name, and the others stay."""
        return await self._write("PATCH", path, {"fieldManager": names.FIELD_MANAGER}, body, STRATEGIC)

    async def create(self, path: str, body: Json) -> Json:
        return await self._write("POST", path, {"fieldManager": names.FIELD_MANAGER}, body, "application/json")

    async def delete(self, path: str, uid: str) -> None:
        """Delete the object if it still has this uid; one that is gone, or another by now, is left alone."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        try:
            await self._write("DELETE", path, {}, options, "application/json")
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def write_lease(self, method: str, path: str, body: Json, timeout: float) -> Json:
        """A write that is not fenced: the Lease decides who may write."""
        return await self._json(method, path, {}, body, "application/json", timeout)

    async def list(self, path: str, **query: str) -> AsyncIterator[Json]:
        """Every item, read in pages; each has no apiVersion and kind, as in any list."""
        token = ""
        while True:
            page = await self.get(path, limit=PAGE, **query, **({"continue": token} if token else {}))
            for item in page.get("items", []):
                yield item
            token = page.get("metadata", {}).get("continue", "")
            if not token:
                return

    async def watch(self, path: str, idle_timeout: float, **query: str | int) -> AsyncIterator[Json]:
        """A watch's events until the server ends it. Raises `TimeoutError` after `idle_timeout` seconds of silence."""
        response = await self._request(
            "GET", path, {"watch": "true", "allowWatchBookmarks": "true", **query}, None, None, None
        )
        try:
            while True:
                line = await asyncio.wait_for(response.content.readline(), idle_timeout)
                if not line:
                    return
                yield json.loads(line)
        finally:
            response.close()

    async def _write(self, method: str, path: str, query: Mapping[str, str | int], body: Json, content: str) -> Json:
        if self._writes_until is not None and time.monotonic() > self._writes_until:
            raise NotLeader("the Lease is lost: another operator may lead by now, so nothing is written")
        return await self._json(method, path, query, body, content)

    async def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int],
        body: Json | None = None,
        content: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Json:
        response = await self._request(method, path, query, body, content, timeout)
        answer: Json = json.loads(await response.read())
        return answer

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int],
        body: Json | None,
        content: str | None,
        timeout: float | None,
    ) -> aiohttp.ClientResponse:
        assert self._rest is not None, "use `async with Api(...)`"
        url = f"{self.configuration.host}{path}"
        if query:
            url += "?" + urlencode(query)
        headers = {"User-Agent": "kappa-operator", "Accept": "application/json"}
        token = await self.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            headers["Authorization"] = token
        if content:
            headers["Content-Type"] = content
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=5)
        answer = await self._rest.request(method, url, headers=headers, body=body, _request_timeout=limits)  # type: ignore[no-untyped-call]
        response: aiohttp.ClientResponse = answer.response
        if response.status >= 400:
            raise _error(response.status, await response.read(), response.headers.get("Retry-After"))
        return response


def _error(status: int, body: bytes, retry_after: str | None) -> ApiError:
    try:
        answer = json.loads(body)
        reason, message = answer.get("reason", ""), answer.get("message", "")
    except (ValueError, AttributeError):
        reason, message = "", body[:200].decode(errors="replace")
    seconds = min(float(retry_after), LONGEST_RETRY_AFTER) if retry_after and retry_after.isdecimal() else None
    return ApiError(status, reason, message, seconds)


async def load_configuration() -> Configuration:
    """In a pod its ServiceAccount, else `KUBECONFIG` or `~/.kube/config`. Raises `ConfigException`, saying which was tried."""
    configuration = Configuration()
    try:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except ConfigException:
        await load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    # Python 3.13's X509_STRICT refuses CAs without a key usage, which many clusters have and every other client takes.
    configuration.disable_strict_ssl_verification = True
    return configuration
