"""List and watch one resource in one scope, for ever: what client-go calls a reflector.

The rules are those of Kubernetes' API concepts page ("Efficient detection of changes"): list in pages, watch from the
list's resourceVersion, advance it by bookmarks, list again when the server says 410.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from kappa_kube.clock import Clock, Sleep
from kappa_kube.connection import Json, Query
from kappa_kube.errors import ApiError, Disconnected, Expired, NoCluster, RequestFailed, api_error
from kappa_kube.table import Key, Table

T = TypeVar("T")
logger = logging.getLogger(__name__)

RELIST_AFTER: Final = 3
"""Watches that failed one after another before the list is read again: a server restored from a backup does not know
our resourceVersion, and need not say 410."""


class Source(Protocol):
    """The part of `client.Client` that a reflector needs."""

    def pages(self, path: str, **query: str) -> AsyncIterator[Json]: ...
    def watch(self, path: str, query: Query, silence: float) -> AsyncGenerator[Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds."""

    watch: float = 300.0
    """The server ends a watch after this (and up to half as long again, so that replicas do not reconnect together)."""
    silence: float = 100.0
    """A watch without an event or a bookmark (the server sends one a minute) for this long is taken for dead."""
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
    hints: Mapping[int, str] | None = None
    """HTTP status → how to mend it."""


class Reflector(Generic[T]):
    def __init__(
        self,
        source: Source,
        resource: Resource,
        scope: str,
        table: Table[T],
        *,
        timing: Timing | None = None,
        wall_clock: Callable[[], float] = time.time,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._source = source
        self._resource = resource
        self._scope = scope
        self._table = table
        self._timing = timing or Timing()
        self._wall_clock = wall_clock
        self._clock = clock
        self._sleep = sleep
        self._selectors = {"labelSelector": resource.selector} if resource.selector else {}
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
            except RequestFailed as error:
                self._failures += 1
                self._report(error)
                if isinstance(error, ApiError) and error.status in (403, 404) and not self._listed:
                    self._table.refuse(self._scope)
                if self._must_list_again(error):
                    self._version = None
                delay = self._backoff(error.retry_after)
            except Exception:
                # a bug, or an answer that no API server gives: the other reflectors go on, and so does this one
                self._failures += 1
                logger.exception("cannot follow %s; listing it again", self._resource.title)
                self._version = None
                delay = self._backoff()
            await self._sleep(delay)

    async def _list(self) -> None:
        objects: dict[Key, T] = {}
        version = ""
        async for page in self._source.pages(self._resource.path, **self._selectors):
            for raw in page.get("items") or ():
                item = self._table.read(self._scope, raw)
                if item is not None:
                    objects[item[0]] = item[1]
            version = page["metadata"]["resourceVersion"]
        self._table.replace(self._scope, objects)
        self._version = version
        self._listed = True

    async def _watch(self) -> None:
        """One watch, to its end."""
        timing = self._timing
        query: dict[str, str | int] = {
            "resourceVersion": self._version or "",
            "timeoutSeconds": max(1, round(timing.watch * random.uniform(1, 1.5))),  # noqa: S311 - jitter
            **self._selectors,
        }
        started, events = self._clock(), 0
        async with aclosing(self._source.watch(self._resource.path, query, timing.silence)) as stream:
            async for event in stream:
                self._apply(event)
                events += 1
                self._recovered()
        if not events and self._clock() - started < timing.short:
            raise Disconnected("the watch ended as soon as it had begun")
        self._recovered()

    def _apply(self, event: Mapping[str, Any]) -> None:
        kind, raw = event["type"], event["object"]
        if kind == "ERROR":
            raise api_error(int(raw.get("code") or 500), str(raw.get("reason") or ""), str(raw.get("message") or raw))
        if kind in ("ADDED", "MODIFIED"):
            self._table.put(self._scope, raw, self._wall_clock())
        elif kind == "DELETED":
            self._table.remove(self._scope, raw)
        self._version = raw["metadata"]["resourceVersion"]

    def _must_list_again(self, error: RequestFailed) -> bool:
        if isinstance(error, ApiError) and error.status not in (401, 403, 429) and error.status < 500:
            return True
        return self._failures >= RELIST_AFTER

    def _backoff(self, asked: float | None = None) -> float:
        """Full jitter over a doubling bound, and never less than the server asks for."""
        bound = min(self._timing.backoff_most, self._timing.backoff_first * 2 ** min(self._failures, 16))
        return max(asked or 0.0, random.uniform(bound / 4, bound))  # noqa: S311 - jitter

    def _report(self, error: RequestFailed) -> None:
        """The first failure in a row and every tenth: an API server that is down for an hour fills no log."""
        if self._failures % 10 != 1:
            return
        hint = (self._resource.hints or {}).get(error.status, "") if isinstance(error, ApiError) else ""
        logger.warning(
            "cannot follow %s: %s%s; %strying again",
            self._resource.title,
            error,
            f" ({hint})" if hint else "",
            "serving what is known, and " if self._listed else "",
            extra={"failures": self._failures},
        )

    def _recovered(self) -> None:
        if self._failures:
            logger.info("following %s again", self._resource.title, extra={"failures": self._failures})
        self._failures = 0
