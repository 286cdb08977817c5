"""The Kubernetes API as Kappa uses it: get, list and watch, and the writes, over a `Connection`.

No typed models: a pod as a model costs ten times its JSON, and Kappa reads a dozen of its fields.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final

from kappa_kube.connection import REQUEST_SECONDS, Connection, Json, Query
from kappa_kube.errors import ApiError, NotLeader

__all__ = ["Client", "Json"]

_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"
_STRATEGIC: Final = "application/strategic-merge-patch+json"
_JSON: Final = "application/json"
_PAGE: Final = 250
"""Objects in one page of a list: bounds the JSON that is in memory at once."""
_LIST_SECONDS: Final = 60.0
"""For one page: the first of a large list is slow."""


class Client:
    """Every method raises `ApiError` and `Disconnected`; writes also raise `NotLeader` while `may_write()` is false.

    `field_manager` is who writes, for Kubernetes' managed fields. Several clients may share one connection.
    """

    def __init__(
        self, connection: Connection, field_manager: str, may_write: Callable[[], bool] = lambda: True
    ) -> None:
        self._connection = connection
        self._field_manager = field_manager
        self._may_write = may_write

    async def get(self, path: str, **query: str) -> Json:
        return await self._connection.request("GET", path, query)

    async def pages(self, path: str, **query: str) -> AsyncIterator[Json]:
        """A list, page by page; its items have no apiVersion and kind. Raises `Expired` if it takes too long."""
        token = ""
        while True:
            more = {"continue": token} if token else {}
            page = await self._connection.request("GET", path, {"limit": _PAGE, **query, **more}, timeout=_LIST_SECONDS)
            yield page
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                return

    def watch(self, path: str, query: Query, silence: float) -> AsyncGenerator[Any]:  # Any: JSON of any shape
        """A watch's events until the server ends it. `Disconnected` after `silence` seconds without one."""
        return self._connection.lines(path, {"watch": "true", "allowWatchBookmarks": "true", **query}, silence)

    async def apply(self, path: str, body: Json, *, force: bool = True) -> Json:
        """Server-side apply. With `force` false, fields of other managers raise `ApiError` 409."""
        return await self._write("PATCH", path, body, _APPLY, {"force": str(force).lower()})

    async def merge_patch(self, path: str, body: Json) -> Json:
        return await self._write("PATCH", path, body, _MERGE)

    async def strategic_patch(self, path: str, body: Json) -> Json:
        """As `merge_patch`, but an entry of a list is found by its name, and the others stay."""
        return await self._write("PATCH", path, body, _STRATEGIC)

    async def create(self, path: str, body: Json, *, timeout: float = REQUEST_SECONDS) -> Json:
        return await self._write("POST", path, body, _JSON, timeout=timeout)

    async def replace(self, path: str, body: Json, *, timeout: float = REQUEST_SECONDS) -> Json:
        """Raises `ApiError` 409 if the object is no longer the one of `metadata.resourceVersion`."""
        return await self._write("PUT", path, body, _JSON, timeout=timeout)

    async def delete(self, path: str, uid: str) -> None:
        """Delete the object if it still has this uid; one that is gone or replaced is left alone."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        self._check_fence()
        try:
            await self._connection.request("DELETE", path, {}, options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def _write(
        self,
        method: str,
        path: str,
        body: Json,
        content_type: str,
        query: Query | None = None,
        timeout: float = REQUEST_SECONDS,
    ) -> Json:
        self._check_fence()
        query = {"fieldManager": self._field_manager, **(query or {})}
        return await self._connection.request(method, path, query, body, content_type, timeout)

    def _check_fence(self) -> None:
        if not self._may_write():
            raise NotLeader("the Lease is lost: another operator may lead by now, so nothing is written")
