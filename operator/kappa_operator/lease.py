"""Leader election by a Lease (coordination.k8s.io/v1), as client-go does it.

Who holds the Lease leads. The holder renews it every `retry_period`; when it has not managed to for `renew_deadline` it
stops leading, before others may take the Lease after `lease_duration` of silence. Others judge silence by their own
clock, from when they saw the Lease change last, so clocks need not agree.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

import aiohttp

from kappa_operator import paths
from kappa_operator.client import ApiError, Json

log = logging.getLogger(__name__)

JITTER: Final = 0.2
_UNREACHABLE: Final = (ApiError, aiohttp.ClientError, TimeoutError, OSError)


class LeaseApi(Protocol):
    async def get(self, path: str) -> Json: ...
    async def write_lease(self, method: str, path: str, body: Json, timeout: float) -> Json: ...
    def fence(self, until: float) -> None: ...


class LeaseLost(Exception):
    """The Lease could not be renewed in time, or somebody else has it: stop at once."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Seconds; retry < renew deadline < duration."""

    duration: float
    renew_deadline: float
    retry: float

    def __post_init__(self) -> None:
        if not self.retry < self.renew_deadline < self.duration:
            raise ValueError(
                f"lease times must grow from retry_period ({self.retry}) over renew_deadline ({self.renew_deadline})"
                f" to lease_duration ({self.duration})"
            )


class Lease:
    """`acquire()`, then `keep()` until it raises `LeaseLost` or is cancelled, then `release()`."""

    def __init__(
        self,
        api: LeaseApi,
        namespace: str,
        name: str,
        identity: str,
        times: LeaseTimes,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._times = times
        self._clock = clock
        self._now = now
        self._path = paths.item(paths.LEASES, namespace, name)
        self._seen: tuple[str, float] | None = None
        """The Lease's resourceVersion, and when it was first seen."""
        self._lease: Json = {}
        self.held_until = 0.0
        """By the monotonic clock."""
        self.holder = ""

    async def acquire(self) -> None:
        """Return once this replica leads."""
        told = ""
        while True:
            started = self._clock()
            try:
                if await self._try(started):
                    log.info("leading", extra={"identity": self._identity})
                    return
                if self.holder != told:
                    told = self.holder
                    log.info("standing by", extra={"leader": told, "identity": self._identity})
            except _UNREACHABLE as error:
                log.warning("cannot get the Lease, will try again", extra={"error": str(error)})
            await asyncio.sleep(self._times.retry * (1 + JITTER * random.random()))  # noqa: S311

    async def keep(self) -> None:
        """Renew for as long as that works. Raises `LeaseLost`."""
        while True:
            await asyncio.sleep(min(self._times.retry, max(0.0, self.held_until - self._clock())))
            started = self._clock()
            if started >= self.held_until:
                raise LeaseLost(f"the Lease {self._name!r} could not be renewed for {self._times.renew_deadline} s")
            try:
                async with asyncio.timeout(self.held_until - started):
                    if not await self._try(started):
                        raise LeaseLost(f"the Lease {self._name!r} was taken by {self.holder!r}")
            except _UNREACHABLE as error:
                log.warning("cannot renew the Lease, will try again", extra={"error": str(error)})

    async def release(self) -> None:
        """Give it up, so that another replica need not wait for it to run out. Best effort."""
        if self._clock() >= self.held_until:
            return
        self._hold(0.0)
        spec = {**self._lease.get("spec", {}), "holderIdentity": "", "leaseDurationSeconds": 1}
        with contextlib.suppress(*_UNREACHABLE):
            await self._api.write_lease("PUT", self._path, {**self._lease, "spec": spec}, 2.0)
            log.info("Lease released", extra={"identity": self._identity})

    def _hold(self, until: float) -> None:
        self.held_until = until
        self._api.fence(until)

    async def _try(self, started: float) -> bool:
        """Create, take or renew it; False if another one holds it. Raises what the API raises."""
        try:
            lease = await self._api.get(self._path)
        except ApiError as error:
            if error.status != 404:
                raise
            lease = {}
        if lease and not self._may_take(lease):
            return False
        spec = lease.get("spec", {})
        mine = spec.get("holderIdentity") == self._identity
        stamp = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body: Json = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": lease.get("metadata", {"name": self._name, "namespace": self._namespace}),
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._times.duration)),
                "acquireTime": spec.get("acquireTime", stamp) if mine else stamp,
                "renewTime": stamp,
                "leaseTransitions": spec.get("leaseTransitions", 0) + (0 if mine else 1),
            },
        }
        path = self._path if lease else paths.collection(paths.LEASES, self._namespace)
        try:
            self._lease = await self._api.write_lease("PUT" if lease else "POST", path, body, self._times.retry)
        except ApiError as error:
            if error.status == 409:
                # Somebody was faster, or it changed in between: the next look says who holds it.
                return self._clock() < self.held_until
            raise
        self.holder = self._identity
        self._hold(started + self._times.renew_deadline)
        return True

    def _may_take(self, lease: Json) -> bool:
        spec = lease.get("spec", {})
        version = lease["metadata"].get("resourceVersion", "")
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._clock())
        self.holder = spec.get("holderIdentity") or ""
        if self.holder in ("", self._identity):
            return True
        return self._clock() >= self._seen[1] + float(spec.get("leaseDurationSeconds", self._times.duration))
