"""List and watch one resource in one scope, for ever: what client-go calls a reflector.

The rules are those of Kubernetes' API concepts page ("Efficient detection of changes"): list in pages, watch from the
list's resourceVersion, move on with bookmarks, list again when the server says 410.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from kappa_gateway.kubernetes.api import ApiError, ApiServer, Disconnected, NoCluster
from kappa_gateway.kubernetes.table import Key, Table

T = TypeVar("T")
log = logging.getLogger(__name__)

GONE: Final = 410
RELIST_AFTER: Final = 3
"""Watches that failed one after another before the list is taken anew: a server restored from a backup knows nothing of
our resourceVersion, and need not say 410."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds."""

    watch: float = 300.0
    """The server ends a watch after this (and up to half as long again, so that gateways do not come back all at once)."""
    silence: float = 100.0
    """A watch with no event and no bookmark (the server sends one a minute) for this long is taken for dead."""
    short: float = 1.0
    """A watch that ended within this and brought nothing counts as failed."""
    backoff_first: float = 0.25
    backoff_most: float = 15.0


@dataclass(frozen=True, slots=True)
class Resource:
    """What is listed, and where."""

    path: str
    """Of the collection, such as `/api/v1/pods`."""
    title: str
    """For messages, such as `pods of namespace team-a`."""
    selector: str = ""
    """Label selector."""
    page: int = 250
    """Objects in one page of a list: bounds the JSON that is in memory at once."""
    hints: Mapping[int, str] | None = None
    """HTTP status → how to mend it."""


class Expired(Exception):
    """The resourceVersion is too old (410): only a list helps."""


class Reflector(Generic[T]):
    def __init__(
        self,
        api: ApiServer,
        resource: Resource,
        scope: str,
        table: Table[T],
        *,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._resource = resource
        self._scope = scope
        self._table = table
        self._timing = timing or Timing()
        self._clock = clock
        self._version: str | None = None
        self._listed = False
        self._failures = 0

    async def run(self) -> None:
        """Until cancelled. Raises `NoCluster` alone, when there is nothing to connect to."""
        while True:
            delay = 0.0
            try:
                if self._version is None:
                    await self._list()
                    self._recovered()
                await self._watch()
            except NoCluster:
                raise
            except Expired:
                self._version = None
                self._failures += 1
                delay = self._backoff() if self._failures > 1 else 0.0
            except (ApiError, Disconnected) as error:
                self._failures += 1
                self._report(error)
                if isinstance(error, ApiError) and error.status in (403, 404) and not self._listed:
                    self._table.refuse(self._scope)
                if self._must_list_again(error):
                    self._version = None
                delay = self._backoff(error)
            except Exception:
                # a bug, or a server that answers what no API server does: the other reflectors go on, and so does this
                self._failures += 1
                log.exception("cannot follow %s; listing it anew", self._resource.title)
                self._version = None
                delay = self._backoff()
            await asyncio.sleep(delay)

    async def _list(self) -> None:
        objects: dict[Key, T] = {}
        query = {"limit": str(self._resource.page)}
        if self._resource.selector:
            query["labelSelector"] = self._resource.selector
        while True:
            try:
                page = await self._api.get(self._resource.path, query)
            except ApiError as error:
                if error.status == GONE and "continue" in query:  # the list took too long: its snapshot is gone
                    raise Expired from error
                raise
            for raw in page.get("items") or ():
                item = self._table.read(self._scope, raw)
                if item is not None:
                    objects[item[0]] = item[1]
            query["continue"] = page["metadata"].get("continue") or ""
            if not query["continue"]:
                break
        self._table.replace(self._scope, objects)
        self._version = page["metadata"]["resourceVersion"]
        self._listed = True

    async def _watch(self) -> None:
        """One watch, to its end."""
        timing = self._timing
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version or "",
            "timeoutSeconds": str(max(1, round(timing.watch * random.uniform(1, 1.5)))),  # noqa: S311 - jitter
        }
        if self._resource.selector:
            query["labelSelector"] = self._resource.selector
        started, events = time.monotonic(), 0
        async with aclosing(self._api.events(self._resource.path, query, timing.silence)) as stream:
            async for event in stream:
                self._apply(event)
                events += 1
                self._recovered()
        if not events and time.monotonic() - started < timing.short:
            raise Disconnected("the watch ended as soon as it had begun")
        self._recovered()

    def _apply(self, event: Mapping[str, Any]) -> None:
        kind, raw = event["type"], event["object"]
        if kind == "ERROR":
            status = int(raw.get("code") or 500)
            if status == GONE:
                raise Expired
            raise ApiError(status, str(raw.get("message") or raw))
        if kind in ("ADDED", "MODIFIED"):
            self._table.put(self._scope, raw, self._clock())
        elif kind == "DELETED":
            self._table.remove(self._scope, raw)
        self._version = raw["metadata"]["resourceVersion"]

    def _must_list_again(self, error: Exception) -> bool:
        if isinstance(error, ApiError):
            if error.status == GONE:
                return True
            if error.status not in (401, 403, 429) and error.status < 500:
                return True
        return self._failures >= RELIST_AFTER

    def _backoff(self, error: Exception | None = None) -> float:
        """Full jitter over a doubling bound, and never less than the server asks for."""
        bound = min(self._timing.backoff_most, self._timing.backoff_first * 2 ** min(self._failures, 16))
        asked = error.retry_after if isinstance(error, ApiError) and error.retry_after else 0.0
        return max(asked, random.uniform(bound / 4, bound))  # noqa: S311 - jitter

    def _report(self, error: Exception) -> None:
        """The first failure of a row and every tenth: an API server that is down for an hour fills no log."""
        if self._failures % 10 != 1:
            return
        hint = (self._resource.hints or {}).get(error.status, "") if isinstance(error, ApiError) else ""
        log.warning(
            "cannot follow %s: %s%s; %strying again",
            self._resource.title,
            error,
            f" ({hint})" if hint else "",
            "serving what is known, and " if self._listed else "",
            extra={"failures": self._failures},
        )

    def _recovered(self) -> None:
        if self._failures:
            log.info("following %s again", self._resource.title, extra={"failures": self._failures})
        self._failures = 0
